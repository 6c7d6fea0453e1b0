from __future__ import annotations

import http.client
import random
from typing import Any

import boto3
import pytest
import s3fs
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError

from tests.support.flaky_s3 import Fault, FlakyS3

CONTENT = random.Random(0).randbytes(11 << 20)
PART = 5 << 20


def client(endpoint: str, attempts: int = 1, read_timeout: float = 60) -> Any:
    retries = {"mode": "standard", "total_max_attempts": attempts}
    config = Config(retries=retries, read_timeout=read_timeout)
    return boto3.client("s3", endpoint_url=endpoint, config=config)


def upload_in_parts(of: Any, bucket: str, key: str) -> None:
    upload = of.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    about: dict[str, Any] = {"Bucket": bucket, "Key": key, "UploadId": upload}
    parts = []
    for number, start in enumerate(range(0, len(CONTENT), PART), 1):
        body = CONTENT[start : start + PART]
        tag = of.upload_part(**about, PartNumber=number, Body=body)["ETag"]
        parts.append({"PartNumber": number, "ETag": tag})
    of.complete_multipart_upload(**about, MultipartUpload={"Parts": parts})


def test_without_faults_everything_passes_unharmed(s3, bucket) -> None:
    with FlakyS3(s3.endpoint, share=0) as flaky:
        through = client(flaky.endpoint)
        key = "date=2026-01-31/a b+ü%.bin"
        upload_in_parts(through, bucket, key)
        assert s3.client.get_object(Bucket=bucket, Key=key)["Body"].read() == CONTENT
        assert through.get_object(Bucket=bucket, Key=key)["Body"].read() == CONTENT
        part = through.get_object(Bucket=bucket, Key=key, Range="bytes=10-19")
        assert part["ResponseMetadata"]["HTTPStatusCode"] == 206
        assert part["Body"].read() == CONTENT[10:20]
        assert through.head_object(Bucket=bucket, Key=key)["ContentLength"] == len(CONTENT)
        assert [one["Key"] for one in through.list_objects_v2(Bucket=bucket)["Contents"]] == [key]
        through.delete_object(Bucket=bucket, Key=key)
        assert "Contents" not in s3.client.list_objects_v2(Bucket=bucket)
        with pytest.raises(ClientError, match="NoSuchKey"):
            through.get_object(Bucket=bucket, Key=key)
    assert not flaky.counts.faults
    assert set(flaky.counts.requests) == {"GET", "HEAD", "PUT", "POST", "DELETE"}


def test_conditions_on_a_write_reach_the_server(s3, bucket) -> None:
    with FlakyS3(s3.endpoint, share=0) as flaky:
        through = client(flaky.endpoint)
        tag = through.put_object(Bucket=bucket, Key="lease", Body=b"1", IfNoneMatch="*")["ETag"]
        with pytest.raises(ClientError, match="PreconditionFailed"):
            through.put_object(Bucket=bucket, Key="lease", Body=b"2", IfNoneMatch="*")
        through.put_object(Bucket=bucket, Key="lease", Body=b"3", IfMatch=tag)
        with pytest.raises(ClientError, match="PreconditionFailed"):
            through.put_object(Bucket=bucket, Key="lease", Body=b"4", IfMatch=tag)
        tag = through.head_object(Bucket=bucket, Key="lease")["ETag"]
        with pytest.raises(ClientError, match="304"):
            through.get_object(Bucket=bucket, Key="lease", IfNoneMatch=tag)
    assert s3.client.get_object(Bucket=bucket, Key="lease")["Body"].read() == b"3"


def test_chunked_body_arrives_whole(s3, bucket) -> None:
    with FlakyS3(s3.endpoint, share=0) as flaky:
        connection = http.client.HTTPConnection(flaky.endpoint.removeprefix("http://"))
        chunks = iter([b"one", b"two" * 1000, b"three"])
        connection.request("PUT", f"/{bucket}/chunked", body=chunks, encode_chunked=True)
        assert connection.getresponse().read() == b""
        connection.close()
    found = s3.client.get_object(Bucket=bucket, Key="chunked")["Body"].read()
    assert found == b"one" + b"two" * 1000 + b"three"


def test_retries_get_an_upload_in_parts_and_a_listing_through(s3, bucket) -> None:
    keys = [f"many/{number}" for number in range(8)]
    with FlakyS3(
        s3.endpoint, share=0.3, seed=1, faults=(Fault.SLOW_DOWN, Fault.TIME_OUT), hold=0.01
    ) as flaky:
        through = client(flaky.endpoint, attempts=12)
        upload_in_parts(through, bucket, "large")
        for key in keys:
            through.put_object(Bucket=bucket, Key=key, Body=b"x")
        listed = through.list_objects_v2(Bucket=bucket, Prefix="many/")["Contents"]
    assert sorted(one["Key"] for one in listed) == sorted(keys)
    assert s3.client.get_object(Bucket=bucket, Key="large")["Body"].read() == CONTENT
    counts = flaky.counts
    assert counts.slow_downs["PUT"] > 0 < counts.time_outs["PUT"]
    # Each fault is one request more than those that succeed.
    done = 1 + 3 + 1 + len(keys) + 1
    assert counts.requests.total() == done + counts.faults.total()


def test_s3fs_with_retries_reads_and_writes_through_faults(s3, bucket) -> None:
    retries = {"mode": "standard", "total_max_attempts": 12}
    with FlakyS3(s3.endpoint, share=0.3, seed=2, hold=0.01) as flaky:
        fs = s3fs.S3FileSystem(
            endpoint_url=flaky.endpoint,
            config_kwargs={"retries": retries},
            skip_instance_cache=True,
            use_listings_cache=False,
        )
        for number in range(10):
            fs.pipe_file(f"{bucket}/{number}", b"%d" % number)
        fs.pipe_file(f"{bucket}/large", CONTENT)
        assert fs.cat_file(f"{bucket}/large") == CONTENT
        assert len(fs.find(bucket)) == 11
    assert flaky.counts.faults.total() > 0


def test_share_of_faults_is_the_one_asked_for(s3, bucket) -> None:
    with FlakyS3(s3.endpoint, share=0.2, faults=(Fault.SLOW_DOWN,)) as flaky:
        through = client(flaky.endpoint)
        answers = []
        for _ in range(150):
            try:
                through.head_bucket(Bucket=bucket)
                answers.append(200)
            except ClientError as error:
                answers.append(error.response["ResponseMetadata"]["HTTPStatusCode"])
    assert set(answers) == {200, 503}
    assert flaky.counts.requests == {"HEAD": 150}
    assert flaky.counts.slow_downs == {"HEAD": answers.count(503)}
    assert 0.1 < answers.count(503) / 150 < 0.3


def test_slow_down_is_an_error_of_s3_and_nothing_is_written(s3, bucket) -> None:
    with (
        FlakyS3(s3.endpoint, share=1, faults=(Fault.SLOW_DOWN,)) as flaky,
        pytest.raises(ClientError, match="SlowDown") as caught,
    ):
        client(flaky.endpoint).put_object(Bucket=bucket, Key="a", Body=b"a")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    assert "Contents" not in s3.client.list_objects_v2(Bucket=bucket)


def test_held_request_times_out_and_nothing_is_written(s3, bucket) -> None:
    with FlakyS3(s3.endpoint, share=1, faults=(Fault.TIME_OUT,), hold=30) as flaky:
        impatient = client(flaky.endpoint, read_timeout=0.2)
        with pytest.raises(ReadTimeoutError):
            impatient.put_object(Bucket=bucket, Key="a", Body=b"a")
    assert flaky.counts.time_outs == {"PUT": 1}
    assert "Contents" not in s3.client.list_objects_v2(Bucket=bucket)


def test_lost_answer_hangs_up_after_the_work_is_done(s3, bucket) -> None:
    with (
        FlakyS3(s3.endpoint, share=1, faults=(Fault.LOST_ANSWER,), hold=0) as flaky,
        pytest.raises(ConnectionClosedError),
    ):
        client(flaky.endpoint).put_object(Bucket=bucket, Key="a", Body=b"a")
    assert flaky.counts.lost_answers == {"PUT": 1}
    assert s3.client.get_object(Bucket=bucket, Key="a")["Body"].read() == b"a"


def test_same_seed_gives_the_same_sequence_of_faults(s3, bucket) -> None:
    def answers(seed: int) -> list[int]:
        with FlakyS3(s3.endpoint, share=0.5, seed=seed, faults=(Fault.SLOW_DOWN,)) as flaky:
            host = flaky.endpoint.removeprefix("http://")
            return [status(host, f"/{bucket}") for _ in range(30)]

    assert answers(3) == answers(3) != answers(4)


def status(host: str, path: str) -> int:
    connection = http.client.HTTPConnection(host)
    connection.request("HEAD", path)
    found = connection.getresponse().status
    connection.close()
    return found

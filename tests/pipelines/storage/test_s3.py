"""Libraries of S3 are imported by whom needs them."""

import subprocess
import sys


def test_a_local_job_imports_no_library_of_s3():
    code = (
        "import sys, pipelines.featurize.run, pipelines.score.job; "
        "from pipelines.storage.access import check_readable, storage_errors; "
        "from pipelines.storage.configuration import Storage; "
        "check_readable('.', Storage()); "
        "assert OSError in storage_errors(); "
        "print({'s3fs', 'aiobotocore'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_errors_of_s3_are_caught_once_it_is_there():
    import aiohttp

    from pipelines.storage import s3
    from pipelines.storage.access import storage_errors
    from pipelines.storage.configuration import Storage

    assert s3.s3_filesystem(Storage()) is s3.s3_filesystem(Storage())
    assert aiohttp.ClientError in storage_errors()
    assert storage_errors(KeyError)[0] is KeyError

"""The decoder and its beam search, on small decoders that nobody trained."""

import itertools
import math

import numpy as np
import pytest
import torch

from item.errors import UsageError
from item.mini import captioner
from item.mini.captioner import (
    COPY_WIDTH,
    END,
    MAX_WORDS,
    PAD,
    SPECIAL,
    START,
    WIDTH,
    Decoder,
    Memory,
    MiniCaptioner,
    beam_search,
    top_classes,
    words_of,
)
from tests.support.untrained_weights import WORDS, write_captioner


def small_decoder(words, seed):
    """A random decoder of a few words."""
    torch.manual_seed(seed)
    decoder = Decoder(len(SPECIAL) + words).eval()
    decoder.requires_grad_(False)
    decoder.words.weight.mul_(0.125)
    decoder.positions.normal_()
    decoder.bias.normal_()
    return decoder


def memories(images, seed, words=3):
    """What a decoder of a few words may read: one candidate to copy an image."""
    generator = torch.Generator().manual_seed(seed)
    return Memory(
        torch.randn(images, 54, WIDTH, generator=generator),
        torch.randn(images, 1, COPY_WIDTH, generator=generator),
        torch.randint(0, len(SPECIAL) + words, (images, 1), generator=generator),
    )


def next_words(decoder, memory, words):
    """Log-probabilities after `words`, by the same path that training takes."""
    return decoder(torch.tensor([[[START, *words]]]), memory)[0, 0, -1].log_softmax(0)


def allowed(words):
    """No word twice in a row, no pair twice."""
    pairs = list(itertools.pairwise([START, *words]))
    return len(set(pairs)) == len(pairs) and all(first != second for first, second in pairs)


# The decoder


def test_one_word_at_a_time_gives_the_logits_of_the_whole_caption():
    decoder = small_decoder(words=9, seed=0)
    memory = memories(images=3, seed=1)
    words = torch.randint(0, 13, (3, MAX_WORDS + 1), generator=torch.Generator().manual_seed(2))
    whole = decoder(words.unsqueeze(1), memory).squeeze(1)
    crossed, past = decoder.crossed(memory), []
    for position in range(MAX_WORDS + 1):
        logits, past = decoder.step(words[:, position], position, memory, crossed, past)
        torch.testing.assert_close(logits, whole[:, position], atol=1e-4, rtol=1e-4)


def test_captions_of_one_image_do_not_see_each_other():
    decoder = small_decoder(words=9, seed=0)
    memory = memories(images=2, seed=1)
    words = torch.randint(0, 13, (2, 3, 6), generator=torch.Generator().manual_seed(2))
    together = decoder(words, memory)
    for caption in range(3):
        alone = decoder(words[:, caption : caption + 1], memory)
        torch.testing.assert_close(together[:, caption], alone[:, 0], atol=1e-5, rtol=1e-5)


def test_words_to_come_are_not_seen():
    decoder = small_decoder(words=9, seed=0)
    memory = memories(images=1, seed=1)
    words = torch.tensor([[[START, 5, 6, 7]]])
    changed = torch.tensor([[[START, 5, 8, 9]]])
    torch.testing.assert_close(decoder(words, memory)[:, :, :2], decoder(changed, memory)[:, :, :2])


def test_memory_holds_the_cells_the_classes_and_their_words():
    decoder = small_decoder(words=2, seed=0)
    maps, names = torch.randn(2, 1280, 8, 8), torch.randn(2, 5, 384)
    words = torch.tensor([[[4, 5]] * 5, [[5, PAD]] * 5])
    sure = decoder.memory(maps, names, torch.full((2, 5), 0.2), words)
    assert sure.tokens.shape == (2, 64 + 5, WIDTH)
    assert sure.copy_keys.shape == (2, 10, COPY_WIDTH)
    assert sure.copy_words.tolist() == [[4, 5] * 5, [5, PAD] * 5]
    unsure = decoder.memory(maps, names, torch.zeros(2, 5), words)
    assert all(torch.isfinite(part).all() for part in unsure)
    torch.testing.assert_close(sure.tokens[:, :64], unsure.tokens[:, :64])
    assert not torch.allclose(sure.tokens[:, 64:], unsure.tokens[:, 64:])


def test_copying_raises_the_words_of_the_classes_and_no_others():
    decoder = small_decoder(words=5, seed=0)
    states = torch.randn(1, 2, WIDTH, generator=torch.Generator().manual_seed(0))
    keys = torch.randn(1, 3, COPY_WIDTH, generator=torch.Generator().manual_seed(1))
    memory = Memory(torch.zeros(1, 54, WIDTH), keys, torch.tensor([[4, 6, PAD]]))
    plain = torch.zeros(1, 2, len(SPECIAL) + 5)
    raised = decoder.copying(plain, states, memory)
    scores = decoder.copying.query(states) @ keys.transpose(1, 2) / COPY_WIDTH**0.5
    torch.testing.assert_close(raised[..., [4, 6]], scores[..., :2])
    assert not raised[..., [0, 1, 2, 3, 5, 7, 8]].any()


# The beam search


@pytest.mark.parametrize("seed", range(8))
def test_a_beam_as_wide_as_all_captions_finds_the_best_of_all(seed, monkeypatch):
    monkeypatch.setattr(captioner, "MAX_WORDS", 3)
    decoder = small_decoder(words=3, seed=seed)
    memory = memories(images=1, seed=seed)
    scores = {}
    for length in range(4):
        for words in itertools.product(range(len(SPECIAL), len(SPECIAL) + 3), repeat=length):
            if allowed(words):
                steps = [
                    next_words(decoder, memory, words[:place])[word].item()
                    for place, word in enumerate([*words, END])
                ]
                scores[words] = sum(steps) / max(length, 1)
    best = max(scores, key=scores.__getitem__)
    assert beam_search(decoder, memory, beams=30, length_penalty=1.0) == [list(best)]


@pytest.mark.parametrize("seed", range(8))
def test_one_beam_follows_the_greedy_path_and_ends_at_its_best_place(seed):
    decoder = small_decoder(words=6, seed=seed)
    memory = memories(images=1, seed=seed)
    words, total, best = [], 0.0, (-math.inf, [])
    for position in range(MAX_WORDS + 1):
        steps = next_words(decoder, memory, words)
        going_on = [
            (steps[word].item(), word)
            for word in range(len(SPECIAL), len(steps))
            if allowed([*words, word])
        ]
        better = sum(score > steps[END].item() for score, _ in going_on)
        if better < 2 or position == MAX_WORDS:
            best = max(best, ((total + steps[END].item()) / max(position, 1), list(words)))
        score, word = max(going_on, default=(-math.inf, END))
        total += score
        words.append(word)
    assert beam_search(decoder, memory, beams=1, length_penalty=1.0) == [best[1]]


class Chain:
    """A decoder whose next word depends on the last one alone, as a table says."""

    def __init__(self, table):
        self.table = torch.full((len(SPECIAL) + 4, len(SPECIAL) + 4), 1e-6)
        for last, chances in table.items():
            for word, chance in chances.items():
                self.table[last, word] = chance

    def crossed(self, _memory):
        return []

    def step(self, words, _position, _memory, _crossed, past):
        return self.table[words].log(), past


A, B, C, D = range(len(SPECIAL), len(SPECIAL) + 4)


@pytest.mark.parametrize("beams", [1, 2, 4])
def test_a_decoder_that_is_sure_says_its_sentence(beams):
    chain = Chain({START: {A: 0.99}, A: {C: 0.99}, C: {B: 0.99}, B: {END: 0.99}})
    assert beam_search(chain, memories(images=1, seed=0), beams) == [[A, C, B]]


@pytest.mark.parametrize(("beams", "words"), [(1, [A, C]), (2, [B, D])])
def test_a_second_beam_finds_what_the_greedy_path_misses(beams, words):
    chain = Chain(
        {
            START: {A: 0.6, B: 0.4},
            A: {C: 0.34, D: 0.33, END: 0.33},
            B: {D: 1.0},
            C: {END: 1.0},
            D: {END: 1.0},
        }
    )
    assert beam_search(chain, memories(images=1, seed=0), beams) == [words]


def test_the_length_penalty_decides_between_short_and_long():
    chain = Chain({START: {A: 1.0}, A: {END: 0.5, B: 0.5}, B: {C: 1.0}, C: {END: 0.9}})
    memory = memories(images=1, seed=0)
    assert beam_search(chain, memory, length_penalty=0.0) == [[A]]
    assert beam_search(chain, memory, length_penalty=1.0) == [[A, B, C]]


@pytest.mark.parametrize("beams", [1, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_images_do_not_change_each_others_captions(seed, beams):
    decoder = small_decoder(words=20, seed=seed)
    memory = memories(images=5, seed=seed)
    alone = [memory.repeated(torch.tensor([image])) for image in range(5)]
    together = beam_search(decoder, memory, beams)
    assert together == [beam_search(decoder, one, beams)[0] for one in alone]


@pytest.mark.parametrize("seed", range(6))
def test_captions_repeat_no_word_and_no_pair_and_hold_no_special_word(seed):
    decoder = small_decoder(words=2 + seed, seed=seed)
    decoder.bias[END] = -8.0
    for words in beam_search(decoder, memories(images=4, seed=seed, words=2), length_penalty=1.0):
        assert allowed(words), words
        assert 1 <= len(words) <= MAX_WORDS
        assert min(words) >= len(SPECIAL)


def test_a_decoder_that_never_wants_to_end_is_stopped():
    decoder = small_decoder(words=40, seed=0)
    decoder.bias[END] = -200.0
    found = beam_search(decoder, memories(images=2, seed=0))
    assert [len(words) for words in found] == [MAX_WORDS, MAX_WORDS]


def test_no_image_has_no_caption():
    assert beam_search(small_decoder(words=3, seed=0), memories(images=0, seed=0)) == []


# Pictures


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    return MiniCaptioner(write_captioner(tmp_path_factory.mktemp("weights")))


@pytest.fixture(scope="module")
def pictures():
    generator = np.random.default_rng(0)
    sizes = [(60, 90), (300, 200), (7, 7)]
    return [generator.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


def test_a_picture_has_one_caption_alone_and_in_a_batch(mini, pictures):
    captions = mini.caption(pictures)
    mini.whole.forget()
    assert captions == [mini.caption([picture])[0] for picture in pictures]
    assert captions == mini.caption(pictures * 12)[-3:]
    assert {word for caption in captions for word in caption.split()} <= set(WORDS)


def test_no_picture_has_no_caption(mini):
    assert mini.caption([]) == []


def test_a_missing_vocabulary_is_one_sentence(tmp_path):
    path = write_captioner(tmp_path)
    path.with_suffix(".json").unlink()
    with pytest.raises(UsageError, match=r"^The vocabulary 'captioner\.json' is missing: .*\.$"):
        MiniCaptioner(path)


def test_the_most_probable_classes_come_first():
    logits = torch.zeros(1, 1000)
    logits[0, [7, 3, 900, 11, 12]] = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
    probabilities, classes = top_classes(logits)
    assert classes.tolist() == [[7, 3, 900, 11, 12]]
    assert probabilities[0, 0] / probabilities[0, 1] == pytest.approx(math.e, rel=1e-5)


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A dog's RED ball .", ["a", "dog's", "red", "ball"]),
        ("t-shirt, no. 7!", ["t", "shirt", "no", "7"]),
        ("", []),
    ],
)
def test_words_of_a_caption(caption, words):
    assert words_of(caption) == words

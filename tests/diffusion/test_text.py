"""Prompts to states, the places of words, and states that are kept."""

import pytest
import torch

from datamodules.errors import UserError
from tests.diffusion import trees
from zoo.diffusion.text import constants, spans, token_count, words

SHA = "ab" * 32


# -- states ------------------------------------------------------------------------------------------------------------
def test_states_are_the_encoders_own_for_filled_up_prompts(text):
    prompts = ["a cat", "", "dog on a mat"]
    states = text.encode(prompts)
    assert states.shape == (3, 77, trees.WIDTH) and states.dtype == torch.float32 and not states.requires_grad
    for prompt, state in zip(prompts, states):
        ids = text.tokenizer(prompt).input_ids
        filled = torch.tensor([ids + [text.tokenizer.pad_token_id] * (77 - len(ids))])
        with torch.no_grad():
            assert torch.allclose(state, text.encoder(filled).last_hidden_state[0], atol=1e-6)


def test_many_prompts_are_those_of_one_at_a_time(text):
    prompts = [f"cat {i}" for i in range(70)]                # more than are encoded at once
    states = text.encode(prompts)
    assert all(torch.allclose(states[i], text.encode([prompts[i]])[0], atol=1e-6) for i in (0, 63, 64, 69))


def test_the_first_rows_are_the_states_without_filling(text):
    with torch.no_grad():
        bare = text.encoder(torch.tensor([text.tokenizer("").input_ids])).last_hidden_state
    assert bare.shape[1] == 2 and torch.allclose(text.encode([""])[:, :2], bare, atol=1e-6)


def test_prompts_are_filled_up_with_the_bases_own_token(tmp_path, text):
    trees.write_tokenizer(tmp_path / "second", pad="!")
    ours = trees.Text(text.encoder, trees.tokenizer(tmp_path / "second"))
    end = text.tokenizer.eos_token_id
    assert ours.ids([""])[0].tolist() == [end - 1, end] + [0] * 75
    assert text.ids([""])[0].tolist() == [end - 1] + [end] * 76


def test_a_prompt_that_does_not_fit_is_refused_not_cut(text):
    longest = " ".join(["cat"] * 75)
    assert token_count(text.tokenizer, longest) == 77 and text.ids([longest]).shape == (1, 77)
    with pytest.raises(UserError, match="a prompt of 78 tokens, 77 fit; shorten it"):
        text.encode(["cat", longest + " dog"])


# -- places ------------------------------------------------------------------------------------------------------------
def pieces(text, prompt: str, places: range) -> str:
    """What the tokens at these places say, with a blank where a word ends."""
    ids = text.tokenizer(prompt).input_ids
    return "".join(text.tokenizer.convert_ids_to_tokens([ids[i] for i in places])).replace("</w>", " ").strip()


@pytest.mark.parametrize("prompt, word, count", [
    ("a cat on a mat", "cat", 1),
    ("Cat, cat; a CAT's tail (cat)", "cat", 4),
    ("a carrot, cars, scar, cable-car, car-like and a car", "car", 1),
    ("the dining  table and the table", "dining table", 1),
    ("the dining table and the table", "table", 2),
    ("a naïve café, a cafés", "café", 1),
    ("cat", "cat", 1),
    ("car 12 and car 1", "car 1", 1),
    ("c++ (old) and c", "c++", 1),
    ("cat. dog", "cat.", 1),
    ("cafe\u0301 \u0130, cat", "cat", 1),                        # two signs for one letter, one letter that becomes two
])
def test_a_word_is_found_as_a_word_and_its_tokens_say_it(text, prompt, word, count):
    found = words(text.tokenizer, prompt, word)
    assert len(found) == count
    for places in found:
        assert pieces(text, prompt, places).replace(" ", "") == pieces(text, word, range(1, token_count(text.tokenizer, word) - 1)
                                                                       ).replace(" ", "")


def test_places_count_from_the_start_token_and_cover_every_token_of_a_name(text):
    assert words(text.tokenizer, "a cat on a mat", "cat") == [range(2, 3)]
    assert words(text.tokenizer, "a cat on a mat", "mat") == [range(6, 9)]       # m, a, t: not in the small vocabulary
    assert words(text.tokenizer, "cat dog", "cat dog") == [range(1, 3)]


@pytest.mark.parametrize("prompt, word", [
    ("a carrot", "car"), ("a cable-car", "car"), ("cat_1", "cat"), ("dogs", "dog"), ("dog's", "dogs"), ("", "cat"),
])
def test_a_part_of_another_word_is_not_that_word(text, prompt, word):
    with pytest.raises(UserError, match=f"'{word}' is no word of this prompt"):
        words(text.tokenizer, prompt, word)


def test_an_empty_word_is_refused(text):
    with pytest.raises(UserError, match="an empty word"):
        words(text.tokenizer, "a cat", "  ")


def test_stretches_of_a_joined_prompt_own_their_tokens(text):
    names, prompt, characters = ["cat", "hot dog", "dog"], "", []
    for name in names:
        prompt += " " * bool(prompt) + name
        characters.append((len(prompt) - len(name), len(prompt)))
    found = spans(text.tokenizer, prompt, characters)
    assert [pieces(text, prompt, places) for places in found] == ["cat", "hot dog", "dog"]
    assert [i for places in found for i in places] == list(range(1, token_count(text.tokenizer, prompt) - 1))
    with pytest.raises(UserError, match="no token at characters 3 to 4"):
        spans(text.tokenizer, prompt, [(3, 4)])


# -- kept states -------------------------------------------------------------------------------------------------------
def test_states_are_computed_once_and_then_need_no_encoder(text, tmp_path, monkeypatch):
    prompts = ["a cat", ""]
    first = constants(prompts, tmp_path, SHA, text)
    monkeypatch.setattr(type(text), "encode", lambda *args: pytest.fail("computed again"))
    assert torch.equal(constants(prompts, tmp_path, SHA, text), first)
    assert torch.equal(constants(prompts, tmp_path, SHA), first)


@pytest.mark.parametrize("prompts, sha", [(["a cat"], "cd" * 32), (["a dog"], SHA), (["a cat", "a cat"], SHA), ([], SHA)])
def test_other_prompts_or_another_encoder_are_never_taken_for_these(text, tmp_path, prompts, sha):
    constants(["a cat"], tmp_path, SHA, text)
    with pytest.raises(UserError, match=f"the states of {len(prompts)} prompts are not here, and there is no text encoder"):
        constants(prompts, tmp_path, sha)


def test_a_damaged_or_foreign_file_of_states_is_one_line(text, tmp_path):
    constants(["a cat"], tmp_path, SHA, text)
    constants(["a dog"], tmp_path, SHA, text)
    one, other = sorted(tmp_path.glob("*.safetensors"))
    one.write_bytes(other.read_bytes())
    errors = []
    for prompts in (["a cat"], ["a dog"]):
        try:
            constants(prompts, tmp_path, SHA)
        except UserError as error:
            errors.append(str(error))
    assert len(errors) == 1 and "holds other prompts" in errors[0]
    other.write_bytes(b"\0" * 20)
    with pytest.raises(UserError, match="cannot be read"):
        [constants(prompts, tmp_path, SHA) for prompts in (["a cat"], ["a dog"])]

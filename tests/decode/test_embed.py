"""Embeddings of replies: held to a plain forward pass, one text at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig, BertModel, BertTokenizerFast

from personalign.decode import embed as module
from personalign.decode import load_reward, render
from personalign.decode.embed import MAX_TOKENS, embed_replies, load_embedder
from personalign.errors import ModelError
from tests.decode.tiny_models import Kit, talk

SMALL_LLAMA = {
    "vocab_size": 512,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
REPLIES = ["the hat", "", "a cat, a cat and a mat", "日本", "the hat" * 9]


def test_an_embedding_is_the_mean_of_the_last_hidden_states(kit: Kit) -> None:
    """From the prompt's last token to the reply's, whatever is read beside it; an empty reply has a state, too."""
    prompts = talk("cat", "the hat", "mat", "日", "a")
    found = embed_replies(kit.base, prompts, REPLIES)
    for prompt, reply, row in zip(prompts, REPLIES, found, strict=True):
        before = render(kit.base.tokenizer, prompt)
        ids = [*before, *kit.base.tokenizer(reply, add_special_tokens=False)["input_ids"]]
        with torch.no_grad():
            states = kit.base.layers(input_ids=torch.tensor([ids]))[0][0]
        np.testing.assert_allclose(row, states[len(before) - 1 :].mean(0).numpy(), atol=1e-5)
    others = embed_replies(kit.base, prompts[::-1], REPLIES)
    assert np.abs(found - others).max() > 1e-3  # the control: the prompt counts


def test_long_texts_are_cut_to_what_the_model_reads(kit: Kit) -> None:
    """However long prompt and reply are, both are read in part; what comes behind the cut changes nothing."""
    prompt = talk("cat " * 2000)[0]
    longer = embed_replies(kit.base, [prompt] * 2, ["hat " * 2000, "hat " * 2000 + "mat"])
    assert np.isfinite(longer).all()
    np.testing.assert_allclose(longer[0], longer[1], atol=1e-6)
    most = min(MAX_TOKENS, kit.base.context or MAX_TOKENS)
    assert most < 2000
    short = embed_replies(kit.base, [prompt] * 2, ["hat", "mat"])
    assert np.abs(short[0] - short[1]).max() > 1e-4  # the control: a short reply is read to its end


def test_a_spelt_out_special_token_is_text(kit: Kit) -> None:
    """A reply that spells out the end token doesn't end there."""
    (end,) = kit.base.ends
    spelt = kit.base.tokenizer.convert_ids_to_tokens(end)
    found = embed_replies(kit.base, talk("cat") * 2, [f"hat {spelt}", "hat "])
    assert np.abs(found[0] - found[1]).max() > 1e-4


def test_sentence_encoders_are_read_by_name(kit: Kit, tmp_path: Path) -> None:
    """A folder of sentence-transformers embeds; another name is refused with what was expected."""
    from sentence_transformers import SentenceTransformer  # which takes seconds
    from sentence_transformers.sentence_transformer import modules

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "hat"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    bert = tmp_path / "bert"
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(vocabulary), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        )
    ).save_pretrained(bert)
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(bert)
    whole = SentenceTransformer(modules=[modules.Transformer(str(bert)), modules.Pooling(8)], device="cpu")
    whole.save(str(tmp_path / "encoder"))
    embed = load_embedder(f"encoder:{tmp_path / 'encoder'}", kit.base, is_trusted=True)
    found = embed(talk("cat", "cat"), ["hat", "cat"])
    np.testing.assert_allclose(found, whole.encode(["cat\nhat", "cat\ncat"]), atol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 1e-4
    with pytest.raises(ModelError, match="sentence encoder"):
        load_embedder(f"encoder:{tmp_path / 'none'}", kit.base, is_trusted=True)
    with pytest.raises(ModelError, match='expected "hidden"'):
        load_embedder("glove", kit.base)


@pytest.mark.parametrize(
    "name", ["{folder}", "./encoder", "../encoder", "~/encoder", "encoder", "a/b/c", "C:\\encoder"]
)
def test_a_basis_may_not_name_a_folder_as_its_encoder(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What is in a folder might be run, so only the operator may name one; a hub id gets as far as being looked for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "encoder").mkdir()
    loaded: list[str] = []
    monkeypatch.setattr(module, "_encoder", lambda encoder, _: loaded.append(encoder) or len)
    name = name.format(folder=tmp_path / "encoder")
    with pytest.raises(ModelError, match="names the folder"):
        load_embedder(f"encoder:{name}", kit.base)
    load_embedder(f"encoder:{name}", kit.base, is_trusted=True)
    load_embedder("encoder:owner/some-encoder.v2", kit.base)
    assert loaded == [name, "owner/some-encoder.v2"]


def test_a_reward_models_backbone_embeds_too(kit: Kit, tmp_path: Path) -> None:
    """By its folder's name, with its own tokens and states, whatever its head makes of them."""
    config = AutoConfig.for_model("llama", **SMALL_LLAMA, num_labels=1, pad_token_id=0)
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    kit.base.tokenizer.save_pretrained(tmp_path)
    embed = load_embedder(f"reward:{tmp_path}", kit.base)
    prompts = talk("cat", "the hat")
    found = embed(prompts, REPLIES[:2])
    np.testing.assert_allclose(found, embed_replies(load_reward(tmp_path, "cpu"), prompts, REPLIES[:2]), atol=1e-6)
    assert found.shape == (2, SMALL_LLAMA["hidden_size"])
    assert found.shape[1] != kit.base.hidden_size

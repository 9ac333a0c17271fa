"""The network of CLIP-FlanT5 is read from the published layout in either format, and what does not fit is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from alignbench.errors import UserError
from alignbench.models.weights.missing import MissingWeightsError
from evaluators.networks.chat_model import ChatModel
from evaluators.networks.clip_flant5 import VISION as PUBLISHED_VISION
from evaluators.networks.clip_flant5 import ClipFlanT5, ClipFlanT5Network, PublishedConfig, vision_config
from tests.evaluators.tiny_flant5 import CONFIG, VISION, write_tiny_flant5
from tests.evaluators.tiny_qwen import noise


@pytest.fixture
def copied(flant5, tmp_path):
    """A folder of its own, to be damaged."""
    return Path(shutil.copytree(flant5, tmp_path / "copy"))


def model_in(folder, tokenizer=None):
    return ClipFlanT5(str(folder), None, "float32", str(tokenizer or folder), VISION)


def likelihood(model, question="a cat"):
    return model.log_likelihood(model.pixels([noise(0)]), [question], "Yes")[0].item()


def refused(kind, make):
    with pytest.raises(kind) as error:
        likelihood(make())
    assert "\n" not in str(error.value)
    return str(error.value)


def test_both_formats_of_weights_hold_the_same(tmp_path, flant5):
    write_tiny_flant5(tmp_path / "one", shards="safetensors")
    shards, one = model_in(flant5), model_in(tmp_path / "one")
    assert likelihood(one) == likelihood(shards)
    assert one.weights != shards.weights


def test_a_table_of_words_under_one_of_its_names_is_enough(flant5, copied):
    """As safetensors keeps one name of tensors that share their memory."""
    for file in copied.glob("*.bin"):
        tensors = torch.load(file)
        for name in ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
            tensors.pop(name, None)
        torch.save(tensors, file)
    assert likelihood(model_in(copied)) == likelihood(model_in(flant5))


def test_the_table_of_words_is_in_memory_once(flant5):
    network = model_in(flant5).network.flan_t5
    assert network.encoder.embed_tokens.weight is network.decoder.embed_tokens.weight is network.shared.weight
    assert network.lm_head.weight is not network.shared.weight


def test_published_sizes():
    """The hub shows 22.9 GB and 6.33 GB; the last layer of the image tower, 25 MB, is not built."""
    xxl = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_decoder_layers": 24, "num_heads": 64}
    xl = xxl | {"d_model": 2048, "d_ff": 5120, "num_heads": 32}
    for values, expected in ((xxl, 22.9e9), (xl, 6.33e9)):
        values = CONFIG | values | {"vocab_size": 32128, "mm_hidden_size": 1024}
        config = PublishedConfig(**{k: v for k, v in values.items() if k in PublishedConfig.__dataclass_fields__})
        with torch.device("meta"):
            network = ClipFlanT5Network(config, vision_config(None))
        assert 2 * sum(one.numel() for one in network.parameters()) == pytest.approx(expected, rel=0.01)
        assert len(network.vision_tower.encoder.layers) == PUBLISHED_VISION["num_hidden_layers"] - 1


def test_what_looks_like_a_special_token_or_an_image_is_text(flant5):
    model = model_in(flant5)
    assert [model.text_of(token) for token in model.tokenizer.encode("a </s> cat").ids].count("</s>") == 2
    assert likelihood(model, "a </s> cat") == likelihood(model, "a < /s> cat")
    assert len({likelihood(model, text) for text in ("a cat", "a </s> cat", "a <image> cat")}) == 3


def test_blanks_count_as_one(flant5):
    model = model_in(flant5)
    assert likelihood(model, "  a\n\tcat\u3000 ") == likelihood(model, "a cat")


def test_other_models_are_refused_in_one_sentence(flant5, copied):
    def told(**changes):
        (copied / "config.json").write_text(json.dumps(CONFIG | {"vocab_size": 90} | changes))
        return refused(UserError, lambda: model_in(copied))

    assert "holds a model of type llava; expected clip_t5" in told(model_type="llava")
    for name, value in (("mm_projector_type", "linear"), ("mm_vision_select_layer", -1), ("feed_forward_proj", "relu"),
                        ("tie_word_embeddings", True), ("d_model", "24"), ("num_heads", 0)):  # fmt: skip
        assert f"config.json has a wrong entry {name}" in told(**{name: value})
    (copied / "config.json").write_text(json.dumps({"model_type": "clip_t5"}))
    assert "wrong entry mm_projector_type: Field required" in refused(UserError, lambda: model_in(copied))
    published = ClipFlanT5(str(flant5), None, "float32", str(flant5))
    assert "mm_hidden_size 16, but the image tower has 1024" in refused(UserError, lambda: published)
    assert "holds CLIP-FlanT5; score with the evaluator vqascore_clip_flant5" in refused(
        UserError, lambda: ChatModel(str(flant5), None, "float32")
    )


def test_missing_and_damaged_files_are_named(copied):
    def told(kind=UserError):
        return refused(kind, lambda: model_in(copied))

    shard = copied / "pytorch_model-00002-of-00002.bin"
    content = shard.read_bytes()
    shard.write_bytes(content[:-300])
    assert f"{shard} is cut" in told()
    torch.save({"lm_head.weight": print}, shard)
    assert f"{shard} holds more than tensors" in told()
    torch.save({"lm_head.weight": torch.zeros(2, 2), "another": torch.zeros(1)}, shard)
    assert f"{copied}: the weights do not fit ClipFlanT5Network; missing: " in told()
    shard.unlink()
    assert "lacks pytorch_model-00002-of-00002.bin, which" in told(MissingWeightsError)
    (copied / "pytorch_model.bin.index.json").write_text("{}")
    assert "pytorch_model.bin.index.json is no index of weights" in told()
    (copied / "pytorch_model.bin.index.json").unlink()
    assert f"{copied} lacks weights: model.safetensors" in told(MissingWeightsError)


def test_other_tokenizers_are_refused(flant5, copied):
    def told():
        return refused(UserError, lambda: model_in(flant5, copied))

    file = copied / "tokenizer.json"
    content = json.loads(file.read_text())
    for changes in ({"post_processor": None}, {"model": {"type": "BPE", "vocab": {}, "merges": []}}):
        file.write_text(json.dumps(content | changes))
        assert f"{file} is no tokenizer of T5 with at most" in told()
    file.write_text(json.dumps(content)[:500])
    assert f"{file} is not JSON" in told()
    file.unlink()
    assert "lacks tokenizer.json" in told()

import pytest

from alignbench.store.image_records import (
    PromptRecord,
    SamplingRecord,
    image_name,
    read_prompts,
    read_sampling,
    write_prompts,
    write_sampling,
)
from alignbench.store.manifest import ResultsError


@pytest.mark.parametrize("prompt_id", ["a/b", "..", "", "a b", ".hidden", "a\\b"])
def test_prompt_ids_that_are_no_file_names_are_refused(prompt_id):
    with pytest.raises(ResultsError, match="is not path-safe"):
        image_name(prompt_id, 0)


def test_letters_of_all_scripts_are_kept_in_file_names():
    assert image_name("é-基线", 2) == "é-基线-2.png"


def test_prompts_and_sampling_come_back_in_order_and_to_the_byte(tmp_path):
    prompts = [
        PromptRecord("b", "a cat\u2028 on\tmars\n", ("anime",), ("b-0.png", "b-1.png")),
        PromptRecord("a", "", (), ("a-0.png",)),
    ]
    write_prompts(tmp_path, prompts)
    assert read_prompts(tmp_path) == prompts
    sampling = SamplingRecord("parti", 50, None, "per_prompt", 0, 1, full_size=1632, subset=True)
    write_sampling(tmp_path, sampling)
    assert read_sampling(tmp_path) == sampling

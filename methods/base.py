"""The untouched model: the row that every other one is compared with."""

from typing import NoReturn

from alignbench.batch import PromptBatch
from alignbench.context import Context
from alignbench.method import Method
from alignbench.models.adapter import ModelAdapter


class Base(Method[PromptBatch]):
    """No training at all."""

    trains = False

    def __init__(self, name: str) -> None:
        self.name = name

    def loss(self, model: ModelAdapter, batch: PromptBatch, context: Context) -> NoReturn:
        raise RuntimeError("method=base does not train; leave the train stage out")

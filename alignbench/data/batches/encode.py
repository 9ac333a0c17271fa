"""From samples to batches: cut and encoded how. Nothing here depends on the number of processes."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

from alignbench.batch import Conditioning, ImageBatch, LabelledBatch, PairBatch, PromptBatch
from alignbench.context import Context
from alignbench.crop import CropBox, CropSpec
from alignbench.data.batches.feature_cache import Caches, picture_key, prompt_key
from alignbench.data.batches.sampler import SampleRef
from alignbench.data.source import Picture, PromptSample, cut_alike, pictures_of
from alignbench.data.storage.tensor_store import Entry, Shards, num_bytes
from alignbench.errors import UserError
from alignbench.method import Method
from alignbench.models.adapter import ModelAdapter
from alignbench.settings.data import Posterior


class Indexed(Dataset):
    """A view whose items are asked for by place and come with their global index.

    Args:
        decodes: says of a picture whether its pixels are wanted along with it, as a process that only reads data should
            have decoded them; None leaves that to whoever asks for them.
        cut: says how the images of a place are cut; None leaves them to be cut as they are by default.
    """

    def __init__(
        self,
        view: Sequence[PromptSample],
        decodes: Callable[[Picture], bool] | None = None,
        cut: Callable[[SampleRef], CropSpec] | None = None,
    ) -> None:
        self.view = view
        self.decodes = decodes
        self.cut = cut

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, place: SampleRef) -> tuple[int, PromptSample]:
        index, position = place
        sample = self.view[position]
        if self.cut is not None:
            sample = cut_alike(sample, self.cut(place))
        if self.decodes is not None:
            for picture in filter(self.decodes, pictures_of(sample)):
                _ = picture.pixels
        return index, sample


class Encoder:
    """Turns prompts and pictures into features and latents, and remembers them.

    Each is encoded on its own, never in a batch: with others beside it the last bits would differ (by 7e-6 for the VAE
    of the miniatures on a CPU), and with them a resumed run from one that was not interrupted, or two processes from
    one.

    Args:
        posterior: `mode` gives an image the same latents at every visit; `sample` draws them anew at each visit, keyed
            by the global sample index.
        max_bytes: what prompts, and again what images, may occupy in main memory; the least recently used go first.
        caches: what is kept on the disk and read from there at every visit; nothing is added to it.
        address: names the pixels of a picture, given its key, among those of all data.
        true_size: whether conditioning tells the size that images came in and what was cut out of them.
    """

    def __init__(
        self,
        model: ModelAdapter,
        posterior: Posterior = "mode",
        max_bytes: int = 2 * 2**30,
        caches: Caches | None = None,
        address: Callable[[str], str] = str,
        true_size: bool = False,
    ) -> None:
        self.model = model
        self.posterior = posterior
        self.true_size = true_size
        self.caches = caches
        self.centre = CropSpec((model.resolution, model.resolution))  # unless a picture says otherwise
        self.known = Known(caches.latents if caches else None, address, self.centre)
        self._prompts = _Memory(max_bytes)
        self._pictures = _Memory(max_bytes)

    def prompts(self, texts: Sequence[str]) -> Conditioning:
        """Return the features of each text, on the CPU."""
        distinct = list(dict.fromkeys(texts))
        kept: Sequence[Entry | None] = [None] * len(distinct)
        if self.caches is not None:
            kept = self.caches.prompts.read([prompt_key(text) for text in distinct])
        entries = {
            text: entry or self._prompts.get(text, self.encode_prompt, text)
            for text, entry in zip(distinct, kept, strict=True)
        }
        return Conditioning(**_stacked([entries[text] for text in texts]))

    def codes(self, pictures: Sequence[Picture]) -> list[Entry]:
        """Return what `encode_picture` does of each picture, read together where they are kept on the disk."""
        kept = self.known.read(pictures)
        return [
            entry or self._pictures.get(self._name(picture), self.encode_picture, picture)
            for picture, entry in zip(pictures, kept, strict=True)
        ]

    def _name(self, picture: Picture) -> str:
        return f"{picture.key} {(picture.cut or self.centre).name}"

    def latents(self, codes: Sequence[Entry], index: Tensor, context: Context) -> Tensor:
        """Return the latents of pictures, on the CPU, from their codes.

        Args:
            codes: of the first picture of each sample, then of the second one, if there is any: a sample's draw is the
                same for both.
            index: global index of each sample.
        """
        mean = torch.stack([one["mean"] for one in codes])
        if self.posterior == "mode":
            return self.model.latents_of(mean)
        draws = [context.sample_generator(i, "vae") for i in index.tolist()]
        noise = torch.stack([torch.randn(mean.shape[1:], generator=draw, dtype=mean.dtype) for draw in draws])
        noise = torch.cat([noise] * (len(codes) // len(index)))
        return self.model.latents_of(mean, torch.stack([one["std"] for one in codes]), noise)

    def sized(self, conditioning: Conditioning, pictures: Sequence[Picture], codes: Sequence[Entry]) -> Conditioning:
        """Return the conditioning of prompts as that of these pictures, one a row, of which the codes are given."""
        cuts = [picture.cut or self.centre for picture in pictures]
        if self.true_size:
            sizes = [one["size"].tolist() for one in codes]
            frames = [cut.frame(height, width) for cut, (height, width) in zip(cuts, sizes, strict=True)]
        elif any(cut.size != self.centre.size for cut in cuts):
            frames = [CropBox.uncropped(cut.size) for cut in cuts]
        else:
            return conditioning
        return self.model.with_frames(conditioning, frames)

    @torch.no_grad()
    def encode_prompt(self, text: str) -> Entry:
        """Return the features of a prompt by their names in `Conditioning`, without a batch axis."""
        self._refuse_dropped(f"the prompt {text!r}", self.model.encodes_prompts)
        features = self.model.encode_prompts([text]).to("cpu")
        return {name: tensor[0] for name, tensor in vars(features).items() if tensor is not None}

    @torch.no_grad()
    def encode_picture(self, picture: Picture) -> Entry:
        """Return what is needed of the VAE's posterior: `mean` and, where draws are made, `std`, [C, h, w].

        And the `size` of the picture as it came, height and width, [2].
        """
        self._refuse_dropped(f"the image {picture.key}", self.model.encodes_pixels)
        pixels = fit(picture, picture.cut or self.centre).to(self.model.device)
        mean, std = self.model.encode_posterior(pixels)
        size = torch.tensor(picture.pixels.shape[:2], dtype=torch.int32)
        draws = {"std": std[0].cpu()} if self.posterior == "sample" else {}
        return {"mean": mean[0].cpu(), "size": size, **draws}

    def _refuse_dropped(self, what: str, encodes: bool) -> None:
        if not encodes:
            raise UserError(
                f"{what} is not in the cache any more, and its encoder was not loaded; run the command again with "
                "prepare in stages"
            )


class Known:
    """The pictures whose latents are on the disk; small, so that it travels to the processes that read data."""

    def __init__(self, shards: Shards | None, address: Callable[[str], str], centre: CropSpec) -> None:
        self.shards = shards
        self.address = address
        self.centre = centre

    def read(self, pictures: Sequence[Picture]) -> Sequence[Entry | None]:
        """Return what is kept of each picture."""
        if self.shards is None:
            return [None] * len(pictures)
        return self.shards.read([self._key(picture) for picture in pictures])

    def lacks(self, picture: Picture) -> bool:
        """Say whether a picture has to be decoded."""
        return self.shards is None or self._key(picture) not in self.shards

    def _key(self, picture: Picture) -> bytes:
        return picture_key(self.address(picture.key), picture.cut or self.centre)


def fit(picture: Picture, cut: CropSpec) -> Tensor:
    """Return what is cut out of a picture as pixels [1, 3, H, W] in 0..1; resized bilinearly with antialiasing.

    Both images of a pair have one cut: the published loader of Diffusion-DPO draws one for each, which makes them
    differ by more than what was judged.

    Source: Diffusion-DPO, train.py.
    """
    pixels = torch.from_numpy(picture.pixels).permute(2, 0, 1)[None].float() / 255.0
    frame = cut.frame(*pixels.shape[-2:])
    if frame.resized != frame.original:
        size = list(frame.resized)
        pixels = interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False).clamp(0.0, 1.0)
    if frame.flipped:
        pixels = pixels.flip(-1)
    (top, left), (height, width) = frame.corner, frame.size
    return pixels[..., top : top + height, left : left + width]


def collate(
    items: Sequence[tuple[int, Any]],
    method: Method,
    encoder: Encoder,
    context: Context,
    scores: Mapping[tuple[str, str], float] | None = None,
) -> PromptBatch:
    """Encode samples into the batch that `method.batch_type` names.

    Args:
        items: global index and sample, of the kind that the batch needs.
        scores: of the images of pairs, by prompt and key of the picture.

    With probability `method.prompt_dropout` a sample's conditioning is that of the empty prompt: one draw a sample, so
    both images of a pair lose their prompt together. `prompts` keeps the text.
    """
    index = torch.tensor([i for i, _ in items], dtype=torch.int64)
    samples = [sample for _, sample in items]
    texts = [sample.prompt for sample in samples]
    dropped = (context.uniform(index, "prompt_dropout") < method.prompt_dropout).tolist()
    conditioning = encoder.prompts(["" if drop else text for text, drop in zip(texts, dropped, strict=True)])

    def scores_of(pictures: list[Picture]) -> Tensor | None:
        if scores is None:
            return None
        return torch.tensor([scores[text, picture.key] for text, picture in zip(texts, pictures, strict=True)])

    kind = method.batch_type
    if kind is PairBatch:
        winners, losers = [sample.image_w for sample in samples], [sample.image_l for sample in samples]
        codes = encoder.codes([*winners, *losers])
        latents_w, latents_l = encoder.latents(codes, index, context).chunk(2)
        return PairBatch(
            index,
            texts,
            encoder.sized(conditioning, winners, codes[: len(winners)]),
            latents_w=latents_w,
            latents_l=latents_l,
            probability_w=torch.tensor([sample.probability_w for sample in samples], dtype=torch.float32),
            score_w=scores_of(winners),
            score_l=scores_of(losers),
            time_ids_l=encoder.sized(conditioning, losers, codes[len(winners) :]).time_ids,
        )
    if kind in (LabelledBatch, ImageBatch):
        pictures = [sample.image for sample in samples]
        codes = encoder.codes(pictures)
        sized, latents = encoder.sized(conditioning, pictures, codes), encoder.latents(codes, index, context)
        images = ImageBatch(index, texts, sized, latents)
        if kind is ImageBatch:
            return images
        desirable = torch.tensor([sample.desirable for sample in samples])
        return LabelledBatch(index, texts, images.conditioning, images.latents, desirable)
    return PromptBatch(index, texts, conditioning)


def _stacked(entries: Sequence[Entry]) -> Entry:
    """Return entries of one layout as the rows of common tensors."""
    return {name: torch.stack([entry[name] for entry in entries]) for name in entries[0]}


class _Memory:
    """Values by key, the least recently used forgotten first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.values: OrderedDict[str, Entry] = OrderedDict()

    def get(self, key: str, make: Callable[[Any], Entry], argument: Any) -> Entry:
        """Return the value of `key`, made by `make(argument)` unless it is remembered."""
        if key in self.values:
            self.values.move_to_end(key)
            return self.values[key]
        value = self.values[key] = make(argument)
        self.num_bytes += num_bytes(value)
        while self.num_bytes > self.max_bytes and len(self.values) > 1:
            self.num_bytes -= num_bytes(self.values.popitem(last=False)[1])
        return value

"""What the hub says of a file or a repository, asked within seconds, and why it says nothing."""

from collections.abc import Callable
from typing import TypeVar

from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_url
from huggingface_hub.utils import HFValidationError, validate_repo_id

from alignbench.errors import UserError
from alignbench.models.weights.missing import MissingWeightsError, no_answer

TIMEOUT_SECONDS = 5.0

T = TypeVar("T")


def ask_hub(path: str, filename: str, revision: str | None, named: str, expected: str, download: str) -> None:
    """Ask the hub for a file: one request with a short timeout says whether it and its neighbours can be fetched.

    Args:
        path: a hub id, or what was taken for one.
        filename: the file in that repository.
        revision, named, expected, download: as for `hub_answer`.

    Raises:
        UserError: if the file cannot be fetched.
    """

    def ask() -> object:
        return get_hf_file_metadata(hf_hub_url(path, filename, revision=revision), timeout=TIMEOUT_SECONDS)

    try:
        hub_answer(ask, path, revision, named, expected, download)
    except errors.EntryNotFoundError:
        at = f" at revision {revision}" if revision else ""
        raise UserError(f"{named} has no {filename} on the hub{at}; give {expected}") from None


def hub_answer(
    ask: Callable[[], T],
    path: str,
    revision: str | None,
    named: str,
    expected: str,
    download: str,
    kind: str = "model",
) -> T:
    """Return what the hub answers, or say in one sentence why it does not.

    Args:
        ask: the request, short of time.
        path: a hub id, or what was taken for one; `datasets/` before it for a data set.
        revision: commit, branch or tag.
        named: how the user gave `path`.
        expected: what could be given instead, such as `a diffusers folder`.
        download: what to tell `hf download` while there is a connection.
        kind: of the repository.

    Raises:
        MissingWeightsError: if there is no such repository, or it or the hub cannot be reached.
    """
    at = f" at revision {revision}" if revision else ""
    unreachable, reason = no_answer(), ""
    try:
        if not unreachable:
            return ask()
        validate_repo_id(path)
    except HFValidationError:
        reason = f"{named} is neither here nor a hub id; give {expected}, or an id such as owner/name"
    except errors.GatedRepoError:
        reason = f"{named} is gated; accept its licence at {constants.ENDPOINT}/{path}, then run `hf auth login`"
    except errors.RevisionNotFoundError:
        reason = f"{named} has no revision {revision} on the hub; check the revision"
    except errors.RepositoryNotFoundError:
        reason = f"{named} is neither here nor a {kind} on the hub; check the spelling, or run `hf auth login`"
    except errors.EntryNotFoundError:
        raise
    # offline mode, no connection, a timeout, a hub in trouble; the HTTP library behind the hub's differs by version
    except (OSError, errors.HTTPError) as error:  # pyright: ignore[reportPrivateImportUsage]
        unreachable = type(error).__name__
    if unreachable:
        words = f"{download} --revision {revision}" if revision else download
        reason = (
            f"{named}{at} is neither here nor whole in the local hub cache, and the hub cannot be reached "
            f"({unreachable}); run `hf download {words}` while connected, or give {expected}"
        )
        raise MissingWeightsError(reason, words, unreachable)
    raise MissingWeightsError(reason)

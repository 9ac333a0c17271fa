"""The one form of a capsule's bytes, and that a change of any bit is noticed."""

import tarfile
from pathlib import Path

import pytest

from alignbench.capsule.archive import BLOCK, ArchiveWriter, read_members
from alignbench.capsule.check import extract_all
from alignbench.errors import UserError
from tests.capsule.hostile import as_tar, forged, members_of, written

SMALL = {
    "runs/base-x-1/config.yaml": b"a: 1\n",
    "runs/base-x-1/manifest.json": b"{}\n",
    "runs/dpo-x-2/config.yaml": b"a: 2\n",
    "runs/dpo-x-2/manifest.json": b"{}" * 300,
}


def info(name, **values):
    entry = tarfile.TarInfo(name)
    for key, value in values.items():
        setattr(entry, key, value)
    return entry


def test_common_tools_read_it_and_nothing_in_it_depends_on_time_or_user(tmp_path):
    file = forged(tmp_path / "a.tar", SMALL)
    with tarfile.open(file) as archive:
        entries = archive.getmembers()
        assert [one.name for one in entries] == [*SMALL, "contents.json"]
        assert {(one.mtime, one.uid, one.gid, one.uname, one.gname, one.mode) for one in entries} == {
            (0, 0, 0, "", "", 0o644)
        }
    assert members_of(file) == SMALL
    plain = as_tar(tmp_path / "b.tar", [(info(name), content) for name, content in SMALL.items()])
    assert plain.read_bytes() == written(tmp_path / "c.tar", SMALL).read_bytes()
    assert [*read_members(plain)] == [*SMALL]


def flips(file, positions, tmp_path):
    """Flip a bit at each position; return the sentences, of which none may be missing."""
    content = bytearray(file.read_bytes())
    told = []
    for number, position in enumerate(positions):
        content[position] ^= 1 << position % 8
        file.write_bytes(content)
        content[position] ^= 1 << position % 8
        with pytest.raises(UserError) as refused:
            extract_all(file, tmp_path / str(number))
        told.append(str(refused.value))
    file.write_bytes(content)
    return told


def test_a_flipped_bit_is_refused_wherever_it_is(tmp_path):
    file = forged(tmp_path / "a.tar", SMALL)
    size = file.stat().st_size
    told = flips(file, range(0, size, 61), tmp_path)
    assert all("\n" not in one and str(file) in one for one in told)
    assert len(told) > 150


@pytest.mark.matrix
def test_a_flipped_bit_in_each_byte_is_refused(tmp_path):
    file = forged(tmp_path / "a.tar", SMALL)
    flips(file, range(file.stat().st_size), tmp_path)


def test_the_sentence_names_the_member(tmp_path):
    file = forged(tmp_path / "a.tar", SMALL)
    members = read_members(file)
    for name, member in members.items():
        (content,) = flips(file, [member.start], tmp_path / f"{member.start}-content")
        assert name in content
        (after_name,) = flips(file, [member.start - BLOCK + 136], tmp_path / f"{member.start}-time")
        assert f"behind {[*members][[*members].index(name) - 1]}" in after_name or "its beginning" in after_name
    last = members["contents.json"]
    (behind,) = flips(file, [last.start + last.size], tmp_path / "behind")
    assert "damaged behind contents.json" in behind


@pytest.mark.parametrize("keep", [0, 100, BLOCK, 3 * BLOCK, -BLOCK, -1])
def test_a_cut_file_is_refused(tmp_path, keep):
    file = forged(tmp_path / "a.tar", SMALL)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"a\.tar (is|has|holds|does)"):
        extract_all(file, tmp_path / "out")


def test_more_bytes_than_needed_are_refused(tmp_path):
    file = forged(tmp_path / "a.tar", SMALL)
    file.write_bytes(file.read_bytes() + bytes(10240))
    with pytest.raises(UserError, match="bytes, expected"):
        extract_all(file, tmp_path / "out")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (info("runs/x/config.yaml", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "holds a link, runs/x/config.yaml"),
        (info("runs/x/config.yaml", type=tarfile.LNKTYPE, linkname="../../y"), "holds a link"),
        (info("runs/x", type=tarfile.DIRTYPE), "holds a folder"),
        (info("runs/x/pipe", type=tarfile.FIFOTYPE), "holds a pipe"),
        (info("runs/x/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3), "holds a device"),
        (info("runs/x/config.yaml", mode=0o4755), "has another header for runs/x/config.yaml"),
        (info("runs/x/config.yaml", mtime=1), "has another header"),
        (info("runs/x/config.yaml", uname="root"), "has another header"),
        (info("runs/x/a\nb", type=tarfile.SYMTYPE), r"holds a link, runs/x/a\?b"),
    ],
)
def test_entries_that_are_no_plain_files_are_refused(tmp_path, entry, message):
    with pytest.raises(UserError, match=message):
        read_members(as_tar(tmp_path / "a.tar", [(entry, b"")]))


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_and_sizes_in_further_headers_are_refused(tmp_path, kind):
    with pytest.raises(UserError, match="has another header for"):
        read_members(as_tar(tmp_path / "a.tar", [(info("runs/" + 300 * "x"), b"")], kind))


def test_a_name_that_no_header_holds_is_refused_when_it_is_packed(tmp_path):
    with pytest.raises(UserError, match="too long a name"):
        written(tmp_path / "a.tar", {300 * "x": b""})


def test_a_file_that_grows_while_it_is_packed_is_refused(tmp_path):
    file = Path("/proc/self/status")  # of 0 bytes by its size, and more when it is read
    if not file.exists():
        pytest.skip("this system has no file that grows when it is read")
    with (tmp_path / "a.tar").open("wb") as opened, pytest.raises(UserError, match="changed while it was packed"):
        ArchiveWriter(opened).add_file("a", file)


def test_a_size_beyond_the_end_of_the_file_is_refused(tmp_path):
    entry = tarfile.TarInfo("runs/x/config.yaml")
    entry.size = 2**33 - 1
    (tmp_path / "a.tar").write_bytes(entry.tobuf(tarfile.USTAR_FORMAT) + bytes(19 * BLOCK))
    with pytest.raises(UserError, match=r"is cut in runs/x/config\.yaml"):
        read_members(tmp_path / "a.tar")


def test_a_member_that_is_there_twice_is_refused(tmp_path):
    entries = [(info("runs/x/config.yaml"), b"a"), (info("runs/x/config.yaml"), b"b")]
    with pytest.raises(UserError, match=r"holds runs/x/config\.yaml twice"):
        read_members(as_tar(tmp_path / "a.tar", entries))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", bytes(10240), b"\x1f\x8b" + bytes(10238), b"x" * 20000])
def test_other_files_are_no_capsules(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(UserError, match=r"(no capsule|is empty)"):
        extract_all(tmp_path / "a.tar", tmp_path / "out")
    with pytest.raises(UserError, match="cannot be read"):
        read_members(tmp_path / "none.tar")

"""Where sequences may come from: an old release's archive, and any address, through the workflow."""

import gzip
import hashlib
import json

import duckdb
import pytest
from helpers.archives import ARCHIVE, RELEASE, release_archive, uniref
from helpers.mirror_server import metalink
from helpers.uniref_documents import document, one
from helpers.workflow_runs import SMALL, changed, run

CLUSTERS = [one(f"UniRef50_{name}", "MKTAYIAKQRQISFVKSHFSRQ" + name, members=3) for name in "CAB"]
XML = gzip.compress(document(*(cluster.xml() for cluster in CLUSTERS)), mtime=0)


@pytest.fixture
def archive(tmp_path):
    """A mirror that has an old release; gives its URL."""
    folder = tmp_path / "mirror" / "previous_major_releases" / f"release-{RELEASE}" / "uniref"
    folder.mkdir(parents=True)
    data = release_archive(uniref("uniref100", b"x"), uniref("uniref50", XML))
    (folder / ARCHIVE).write_bytes(data)
    (folder / "RELEASE.metalink").write_text(metalink(data, name=ARCHIVE))
    return (tmp_path / "mirror" / "uniref" / "uniref50").as_uri()


@pytest.fixture
def address(tmp_path):
    """A file of clusters; gives its URL."""
    (tmp_path / "any.file").write_bytes(XML)
    return (tmp_path / "any.file").as_uri()


def filtered(folder, **source):
    """The filter's summary, after a run up to it from the sequences' source."""
    config = changed(SMALL, source=source)
    result = run(folder, config, "--until", "filter")
    assert result.returncode == 0, result.stdout
    catalog, members = f"{folder}/results/catalog/*.parquet", f"{folder}/results/members.parquet"
    assert duckdb.sql(f"SELECT id FROM '{catalog}'").fetchall() == [(f"UniRef50_{name}",) for name in "ABC"]
    joined = f"SELECT id, count(*) FROM '{catalog}' JOIN '{members}' USING (id) GROUP BY id ORDER BY id"
    assert duckdb.sql(joined).fetchall() == [(f"UniRef50_{name}", 3) for name in "ABC"]
    return json.loads((folder / "results/summaries/filter.json").read_text())


@pytest.mark.slow
def test_old_release_out_of_an_archive(tmp_path, archive):
    # A number is what YAML makes of 2024_05.
    account = filtered(tmp_path / "run", kind="release", release=int(RELEASE.replace("_", "")), mirrors=[archive])
    assert account["release"]["release"] == RELEASE
    assert account["release"]["member"] == "uniref50.tar/uniref50.xml.gz"
    assert account["members"] == {"read": 9, "kept": 9, "rejected": 0, "clusters_that_differ": 0}
    assert (tmp_path / f"run/resources/release-{RELEASE}-xml/uniref50/uniref50.xml.gz").read_bytes() == XML


@pytest.mark.slow
def test_any_address(tmp_path, address):
    sha256 = hashlib.sha256(XML).hexdigest()
    account = filtered(tmp_path / "run", kind="url", database="clusters", url=address, sha256=sha256)
    assert account["release"] == {
        "url": "any.file",
        "database": "clusters",
        "release": None,
        "date": None,
        "bytes": len(XML),
        "md5": hashlib.md5(XML).hexdigest(),
        "sha256": sha256,
    }


@pytest.mark.slow
def test_wrong_checksum_of_an_address_is_one_line(tmp_path, address):
    config = changed(SMALL, source={"kind": "url", "url": address, "md5": "0" * 32})
    result = run(tmp_path / "run", config, "--until", "filter")
    assert result.returncode
    assert "any.file: expected md5 " + "0" * 32 in result.stdout
    assert "Traceback" not in result.stdout

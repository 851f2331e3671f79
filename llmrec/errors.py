"""Errors that a user can act on: each message says what is wrong, where, and what to type.

The command line prints the message and ends with exit code 2; a traceback means a bug in llmrec.
"""


class LlmrecError(Exception):
    """Base class of all errors of llmrec."""


class RecipeError(LlmrecError):
    """A recipe or an override is wrong."""


class DataError(LlmrecError):
    """Interactions or items are missing, malformed or contradictory."""


class CodeError(LlmrecError):
    """Item codes or a catalogue folder cannot be used."""


class ModelError(LlmrecError):
    """A language model or an encoder is missing or does not fit."""


class PromptError(LlmrecError):
    """A prompt template cannot be used."""


class RequestError(LlmrecError):
    """A request for recommendations cannot be answered."""


class RunError(LlmrecError):
    """A run folder that cannot be read, written or continued."""


class TextError(LlmrecError):
    """A text that tasks need and no oracle could write, or a language-model server that gives no answer."""


class ChatError(LlmrecError):
    """A chat that cannot continue: no server, or no answer from it."""

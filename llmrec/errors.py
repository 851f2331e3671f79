"""Errors that a person can act on: each says what is wrong, where, and what to type.

A known error ends the command line with its message and exit code 2; a traceback means a bug of ours.
"""


class LlmrecError(Exception):
    """What every known error of llmrec is."""


class RecipeError(LlmrecError):
    """A recipe, or an override of it, that cannot be read."""


class DataError(LlmrecError):
    """Interactions or items that are missing, malformed or contradictory."""


class CodeError(LlmrecError):
    """Item codes or a catalogue folder that cannot be used."""


class ModelError(LlmrecError):
    """A language model or an encoder that is missing or does not fit."""


class PromptError(LlmrecError):
    """A prompt template that cannot be used."""


class RequestError(LlmrecError):
    """A request for recommendations that cannot be answered."""


class RunError(LlmrecError):
    """A run folder that cannot be read, written or gone on with."""


class TextError(LlmrecError):
    """Words that tasks need and nobody could write."""


class ChatError(LlmrecError):
    """A chat that cannot go on: no server, or no answer of one."""

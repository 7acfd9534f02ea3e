"""Why a call is not answered. None of them tells which keys exist."""


class RefusalError(Exception):
    """A call that is refused before it is looked at; `reason` is its label in metrics."""

    reason = "refused"


class UnauthenticatedError(RefusalError):
    """No valid key came with the call: missing, unknown, not valid yet, or no longer."""

    reason = "unauthenticated"

    def __init__(self) -> None:
        super().__init__("a valid API key is needed: metadata 'authorization: Bearer KEY'")


class ScopeMissingError(RefusalError):
    """The key is valid and does not allow this method."""

    reason = "scope"

    def __init__(self, scope: str) -> None:
        super().__init__(f"the API key must have the scope {scope}; it has not")


class BusyError(RefusalError):
    """Nothing is wrong with the call; it may come again after `retry_after_ms`."""

    reason = "busy"

    def __init__(self, message: str, retry_after_ms: int) -> None:
        super().__init__(f"{message}; try again in {retry_after_ms} ms")
        self.retry_after_ms = retry_after_ms


class QuotaExceededError(BusyError):
    """The client has used up what its key allows."""

    reason = "quota"


class TooManyCallsError(BusyError):
    """As many calls are being answered as may be at a time."""

    reason = "concurrency"


class OverloadedError(BusyError):
    """Calls wait too long before they are begun, so fewer are begun."""

    reason = "overload"

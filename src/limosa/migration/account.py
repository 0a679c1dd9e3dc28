"""What a move tells of itself while it goes on: its readings, its lines in the log, its clock, and that it changed."""

import asyncio
import time

from limosa.migration.diary import Diary
from limosa.migration.report import pause_of, stage_spans
from limosa.migration.samples import Samples
from limosa.units import MoveId
from limosa.wire.history import MoveRecord
from limosa.wire.moves import MoveStatus, Progress


class Account:
    """The account of one move; its time begins now.

    Attributes:
        diary: what is logged of it.
        began: on the event loop's clock.
        began_at: seconds since 1970.
        news: set at the next change; each change has one of its own.
    """

    def __init__(self, move: MoveId, host: str) -> None:
        self.diary = Diary(move, host)
        self.began = asyncio.get_running_loop().time()
        self.began_at = time.time()
        self.news = asyncio.Event()
        self._progress: dict[str, Progress] = {}
        self._samples = Samples()
        self._number = 0

    def begin_at(self, opened: float) -> None:
        """It had begun before, at this moment (seconds since 1970), under another agent process."""
        before = max(0.0, self.began_at - opened)
        self.began, self.began_at = self.began - before, self.began_at - before

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return asyncio.get_running_loop().time() - self.began

    @property
    def progress(self) -> tuple[Progress, ...]:
        """The latest reading of each copy."""
        return tuple(self._progress.values())

    def read(self, progress: Progress) -> None:
        """Take a reading in."""
        self._progress[progress.item] = progress
        self._samples.add(self.elapsed, progress)
        self.tell()

    def tell(self) -> None:
        """Something changed."""
        self.change()
        self.wake()

    def change(self) -> None:
        """From now on it is another record; those who wait are told of it later."""
        self._number += 1

    def wake(self) -> None:
        """Tell those who wait."""
        self.news.set()
        self.news = asyncio.Event()

    def is_known(self, number: int) -> bool:
        """Whether whoever has the record of this number has the latest one."""
        return self._number == number

    def record(self, status: MoveStatus) -> MoveRecord:
        """The move over its time, as far as it is."""
        return MoveRecord(
            began=self.began_at,
            ended=self.began_at + status.elapsed if status.state.over else None,
            status=status,
            stages=stage_spans(status),
            pause=pause_of(status),
            series=self._samples.series(),
            number=self._number,
        )

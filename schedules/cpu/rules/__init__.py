"""Schedule rules for CPUs, in the order in which they are tried."""

from schedules.cpu.rules.amx import AmxTiled
from schedules.cpu.rules.base import Applied, NotApplicableError, Rule
from schedules.cpu.rules.dots import WindowDots
from schedules.cpu.rules.fallback import Fallback
from schedules.cpu.rules.images import ImageBytes
from schedules.cpu.rules.injective import Injective
from schedules.cpu.rules.microkernels import MicroKernels
from schedules.cpu.rules.reduction import Reduction
from schedules.cpu.rules.rows import RowByRow
from schedules.cpu.rules.signs import PackedSigns, SignTables
from schedules.cpu.rules.tables import TableLookup
from schedules.cpu.rules.tiled import RegisterTiled
from schedules.cpu.rules.window import ChannelWindow
from schedules.cpu.rules.window_bytes import WindowBytes
from schedules.cpu.rules.winograd import WinogradStrips
from schedules.cpu.rules.winograd_tiles import WinogradTiles

#: Tried in order; the last one fits everything.
RULES: tuple[Rule, ...] = (
    AmxTiled(),
    RegisterTiled(),
    MicroKernels(),
    ChannelWindow(),
    WindowDots(),
    WindowBytes(),
    WinogradStrips(),
    WinogradTiles(),
    RowByRow(),
    PackedSigns(),
    SignTables(),
    ImageBytes(),
    TableLookup(),
    Injective(),
    Reduction(),
    Fallback(),
)

__all__ = ["RULES", "Applied", "NotApplicableError", "Rule"]

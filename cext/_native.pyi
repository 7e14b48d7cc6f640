"""What the C extension offers: the same as its twins, which therefore also say its types."""

from mooring.cext._pure import Framer as Framer
from mooring.cext._pure_array import ArraySplitter as ArraySplitter

"""Sources of images as they are handed out: what is in them (`open_source`), and reading it in any order."""

from data_prep.sources.detect import LAYOUTS, open_source
from data_prep.sources.image_list import ImageList, SourceImage
from data_prep.sources.listing import WHOLE, Listing
from data_prep.sources.reader import SourceReader
from data_prep.sources.spool import SPOOL_SUFFIX

__all__ = ["LAYOUTS", "SPOOL_SUFFIX", "WHOLE", "ImageList", "Listing", "SourceImage", "SourceReader", "open_source"]

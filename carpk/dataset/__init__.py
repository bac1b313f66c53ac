"""Data sets: patients, doses, observations and published cohort summaries, with provenance.

The one module that knows pandas. Everything is checked where it enters: an entry that cannot be
used is refused with its file, row, column and patient and with what to do about it. Nothing is
dropped, filled or converted without a sentence in `notes`. Labels are text, without blanks around
them; times are days from the patient's first cell infusion.
"""

from carpk.dataset.arrays import IndividualArrays
from carpk.dataset.dataset import Dataset, load_dataset

__all__ = ["Dataset", "IndividualArrays", "load_dataset"]

"""Fills the caches that would otherwise be filled at first use, in every session anew.

Run once while a sandbox's files are prepared, with MPLCONFIGDIR and NUMBA_CACHE_DIR where the launcher looks. What
numba compiled is for this machine's processor: on another kind it is passed over and compiled again.
"""

import librosa
import matplotlib.font_manager  # noqa: F401 (its import makes the list of fonts)
import numpy as np

tone = np.sin(np.arange(22050) / 8).astype(np.float32)
librosa.feature.mfcc(y=tone)
librosa.feature.chroma_cqt(y=tone)
librosa.beat.beat_track(y=tone)
librosa.pyin(tone, fmin=65, fmax=2093)
librosa.effects.hpss(tone)
librosa.sequence.dtw(X=np.ones((2, 9)), Y=np.ones((2, 8)))

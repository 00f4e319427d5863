"""The executable benchmark: scenes whose prompt, picture and sound are known exactly, and scores read from pixels and waveform alone."""

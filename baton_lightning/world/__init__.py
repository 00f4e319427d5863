"""The benchmark world: generated scenes with exactly known prompt, picture and sound, and scores computed from pixels and waveform."""

"""What an experiment weighs before anything is downloaded or trained: parameters, memory, arithmetic."""

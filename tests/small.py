"""Networks small enough for bfloat16 on a CPU without bfloat16 arithmetic, where a product takes 30 times as long as in float32."""

SMALL_DIT = {"width": 32, "depth": 2, "num_heads": 2, "ffn_width": 64, "frequency_width": 32}
SMALL_DIT_OPTIONS = [f"--model.init_args.dit.init_args.{key}={value}" for key, value in SMALL_DIT.items()]

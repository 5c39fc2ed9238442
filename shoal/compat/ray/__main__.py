"""`python -m shoal.compat.ray SCRIPT [ARGUMENT ...]`."""

from shoal.compat.ray.running import main

if __name__ == "__main__":
    main()

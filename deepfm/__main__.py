"""`python -m deepfm`."""

from deepfm.cli import command

if __name__ == "__main__":
    command()

"""The public address of our own trainers: `from rhapsode.trainers import PPOConfig, PPOTrainer`.

Importing this module loads transformers and trl; `import rhapsode` does not import it.
"""

from .recipes.trainers.config import PPOConfig
from .recipes.trainers.ppo import PPOTrainer

__all__ = ["PPOConfig", "PPOTrainer"]

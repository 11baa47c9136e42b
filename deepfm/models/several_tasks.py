"""What models of several tasks share: a tower and an output layer for each task."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from deepfm.data.batch import Inputs
from deepfm.errors import ConfigError, nearest
from deepfm.models.base import make_network
from deepfm.models.flat import FlatModel
from deepfm.models.layers.dnn import initialize_linears
from deepfm.models.layers.experts import NetworkMaker
from deepfm.models.options import DNNConfig, TaskTowersConfig
from deepfm.objectives import Task
from deepfm.objectives.tasks import of_only_task


class SeveralTasksModel(FlatModel):
    """Logits of each task: its output layer over its tower over what the model shares.

    All of it reads the flat embeddings. With one task the logits are a tensor, as those of any
    other model, and with several a dict by their names.
    """

    several_tasks = True

    @property
    def has_network(self) -> bool:
        return False  # that the sections dnn and final describe

    @property
    def uses_flat_embeddings(self) -> bool:
        return True

    @property
    def has_global_bias(self) -> bool:
        return False

    def _tasks_with_towers(self) -> Sequence[Task]:
        """The tasks that have towers; `towered` once these are made."""
        return self.tasks

    @property
    def section(self) -> TaskTowersConfig:
        """The section of the config that is named after the model."""
        found = getattr(self.config, self.config.name)
        assert isinstance(found, TaskTowersConfig)
        return found

    @property
    def output_biases(self) -> dict[str, nn.Parameter]:
        layers = zip(self.towered, self.output_layers, strict=True)
        return {task.name: layer.bias for task, layer in layers if isinstance(layer, nn.Linear)}

    @property
    def output_bias(self) -> nn.Parameter | None:
        return None if len(self.tasks) > 1 else of_only_task(self.output_biases)

    @abstractmethod
    def _task_vectors(self, flat: Tensor) -> Sequence[Tensor]:
        """What the output layer of each task reads, (B, width), of (B, total)."""

    def forward(self, inputs: Inputs) -> Tensor | dict[str, Tensor]:
        """Return logits by task, (B,) for one class and (B, C) for more."""
        vectors = self._task_vectors(self.embedding(*inputs).flat_embeddings)
        logits = {
            task.name: layer(x).squeeze(1)  # which leaves (B, C) alone unless C is 1
            for task, layer, x in zip(self.towered, self.task_outputs, vectors, strict=True)
        }
        return logits if len(logits) > 1 else of_only_task(logits)

    def branches(self, inputs: Inputs) -> dict[str, Tensor]:
        """Return the logits of one task, which have no parts; of several there are none."""
        return {"logit": self(inputs)} if len(self.tasks) == 1 else super().branches(inputs)

    def _maker(self, config: DNNConfig, key: str) -> NetworkMaker:
        """What makes networks by a section of the model's section."""
        return lambda width: make_network(width, config, f"{self.config.name}.{key}")

    def _optional(self, config: DNNConfig | None, key: str) -> NetworkMaker | None:
        return None if config is None else self._maker(config, key)

    def _add_bottom(self, in_features: int, config: DNNConfig | None) -> int:
        """Make `bottom`, which all tasks share, if there is one; how wide its output is."""
        self.bottom = None if config is None else self._maker(config, "bottom")(in_features)
        return in_features if self.bottom is None else self.bottom.output_dim

    def _above_bottom(self, x: Tensor) -> Tensor:
        """What `bottom` makes of its input, (B, width)."""
        shared: Tensor = x if self.bottom is None else self.bottom(x)
        return shared

    def _add_towers(self, widths: Sequence[int]) -> list[int]:
        """Make `towers`, over an input of this width for each task; how wide their outputs are."""
        self.towered = tuple(self._tasks_with_towers())
        self._check_names(self.section.towers, "towers")
        self.towers, found = nn.ModuleList(), list(widths)
        for place, (task, width) in enumerate(zip(self.towered, widths, strict=True)):
            config, key = self._tower_of(task)
            if not config.hidden_units:
                self.towers.append(nn.Identity())
                continue
            tower = make_network(width, config, key)
            self.towers.append(tower)
            found[place] = tower.output_dim
        return found

    def _add_outputs(self, widths: Sequence[int]) -> None:
        """Make `task_outputs`, the output layer of each task over an input of this width."""
        for task, width in zip(self.towered, widths, strict=True):
            layer = nn.Linear(width, task.num_class)
            initialize_linears([layer], self._tower_of(task)[0].init)
            self.output_layers.append(layer)
        self.task_outputs = nn.ModuleList(self.output_layers)

    def _tower_of(self, task: Task) -> tuple[DNNConfig, str]:
        """The section of a task's tower, and its key."""
        section, name = self.section, self.config.name
        if task.name in section.towers:
            return section.towers[task.name], f"{name}.towers.{task.name}"
        return section.tower, f"{name}.tower"

    def _check_names(self, names: Iterable[str], key: str) -> None:
        """Refuse a name of a task that there is none of, or that has no tower.

        Raises:
            ConfigError: Names the key.
        """
        known = [task.name for task in self.towered if task.name]
        for name in names:
            if name not in known:
                hint = nearest(name, known) if known else "a model of one task needs no names"
                raise ConfigError(
                    f"no task {name!r} with a tower; {hint}", key=f"{self.config.name}.{key}"
                )

"""A process mesh, and tasks of tiny configs."""

from tiny_tasks import make_task, mesh  # noqa: F401 - fixtures

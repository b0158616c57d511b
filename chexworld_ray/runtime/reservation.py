"""A driver that was killed leaves its machines reserved for three minutes, in which its successor gets none.

Ray Train 2.60 asks a detached actor of the cluster for machines, under a name that nobody else is told. So rank 0
writes that name down beside the run, and the next driver of the run gives the reservation back.
"""

import ray
from ray.train.v2._internal.execution.context import get_train_context

from chexworld_ray import storage
from chexworld_ray.storage import Place
from chexworld_ray.trust import plain_name

FILE = "reservation.json"
COORDINATOR = "AutoscalingCoordinator"
TIMEOUT = 30.0


def remember(run: Place) -> None:
    """Called in a training worker: under which name this run's machines are reserved."""
    storage.write_json(run / FILE, {"requester": f"train-{get_train_context().train_run_context.run_id}"})


def release(run: Place) -> None:
    """Give back what an earlier driver of this run still holds; nothing where there is none."""
    if not storage.exists(run / FILE):
        return
    try:
        coordinator = ray.get_actor(COORDINATOR, namespace=COORDINATOR)
    except ValueError:  # nobody has asked this cluster for machines yet
        return
    requester = plain_name(storage.read_json(run / FILE).get("requester"), (run / FILE).url)
    ray.get(coordinator.cancel_request.remote(requester_id=requester), timeout=TIMEOUT)

"""Uses the Python clients of both documents: a container's life by the agent, a set by CHaS."""

import sys

import agent_client
import chas_client
from agent_client.api.default import (
    capacity,
    deploy,
    explain,
    get_container,
    health,
    history,
    list_containers,
    plan,
    put_desired_state,
    remove_container,
    stop,
)
from agent_client.models import (
    ContainerDetail,
    ContainerList,
    DeployBody,
    DeployWait,
    DeploySet,
    Problem,
    RemoveContainerWait,
    Removal,
    StopWait,
)
from chas_client.api.operator import nodes

address, token, image, chas, admin = sys.argv[1:]
client = agent_client.AuthenticatedClient(base_url=address, token=token, timeout=60)

body = DeployBody(name="from-python", image=image)
shown = deploy.sync(client=client, body=body, wait=DeployWait.RUNNING)
assert isinstance(shown, ContainerDetail), shown
assert shown.status == "running" and shown.ready is True, shown
listed = list_containers.sync(client=client)
assert isinstance(listed, ContainerList)
assert "from-python" in [container.name for container in listed.containers]
one = get_container.sync("from-python", client=client)
assert isinstance(one, ContainerDetail) and one.spec.image == image, one
why = explain.sync("from-python", client=client)
assert why.desired.generation == 1 and why.status == "running", why
assert history.sync("from-python", client=client).generations[0].present
assert health.sync(client=client).containerd.reachable
assert capacity.sync(client=client).cpu.total > 0
assert plan.sync(client=client).settled in (True, False)

wrong = DeployBody(name="no name", image=image)
refused = deploy.sync(client=client, body=wrong)
assert isinstance(refused, Problem) and refused.code == "InvalidSpec", refused
assert refused.errors[0].field == "name", refused
dry = put_desired_state.sync(client=client, body=DeploySet(containers=[body]), dry_run=True)
assert dry.changed is False, dry

stopped = stop.sync("from-python", client=client, wait=StopWait.STOPPED)
assert stopped.status == "stopped", stopped
gone = remove_container.sync("from-python", client=client, wait=RemoveContainerWait.REMOVED)
assert isinstance(gone, Removal) and gone.status == "removed", gone
missing = get_container.sync("from-python", client=client)
assert isinstance(missing, Problem) and missing.code == "NotFound", missing

operator = chas_client.AuthenticatedClient(base_url=chas, token=admin)
known = nodes.sync(client=operator)
assert [node.id for node in known.nodes] == ["quickstart"], known
print("Python: deployed, listed, explained, stopped and removed a container; listed the nodes of CHaS")

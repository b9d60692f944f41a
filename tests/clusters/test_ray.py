"""Sweeps by way of Ray: a cluster of two nodes, one of which dies; the store is what one process leaves, to the bit."""

import pytest
from conftest import checkpoints, ends_well, same, training
from slurm import until

ray = pytest.importorskip("ray")


@pytest.fixture
def nodes(monkeypatch):
    """A head and another node, each with one core."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    one = {"num_cpus": 1, "memory": 4 * 2**30, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=one | {"include_dashboard": False})
    cluster.add_node(**one)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


def test_a_sweep_on_two_nodes_of_which_one_dies(nodes, start, alone, tmp_path):
    command = start("executor=ray", "executor.memory=1.5", f"executor.address={nodes.address}")
    training(tmp_path)
    until(lambda: len(checkpoints(tmp_path)) == 2, "both nodes train", 60)
    [other] = nodes.worker_nodes
    nodes.remove_node(other, allow_graceful=False)
    assert len(checkpoints(tmp_path)) == 2  # it was in the midst of a stack
    ends_well(command)
    same(tmp_path, alone)


def test_a_cluster_of_this_machine_alone(start, alone, tmp_path):
    ends_well(start("executor=ray", "executor.memory=1.5"))
    same(tmp_path, alone)


def test_what_cannot_be_had_is_one_message(nodes, start):
    for arguments, said in {
        ("executor.cpus=64",): "no machine of the cluster has as much; at most 1 cores",
        ("executor.gpus=1",): "0 GPUs",
    }.items():
        command = start("executor=ray", f"executor.address={nodes.address}", *arguments)
        output, _ = command.communicate(timeout=90)
        assert command.returncode == 2 and said in output and "Traceback" not in output, output
    command = start("executor=ray", "executor.address=127.0.0.1:1")
    output, _ = command.communicate(timeout=120)
    assert command.returncode == 2 and "no cluster answers there" in output and "Traceback" not in output, output


def test_a_polite_kill_ends_the_sweep_as_ctrl_c_does(start, tmp_path):
    """Though Ray has handlers of its own."""
    command = start("executor=ray", "executor.memory=1.5")
    training(tmp_path)
    command.terminate()
    output, _ = command.communicate(timeout=60)
    assert command.returncode == 130 and "interrupted" in output and "Traceback" not in output, output

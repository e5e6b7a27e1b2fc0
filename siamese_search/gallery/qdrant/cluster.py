"""Which shards of a collection a cluster misses: asked when it has been waited for in vain."""

from __future__ import annotations

from qdrant_client import QdrantClient, models


def missing_shards(client: QdrantClient, collection: str) -> str:
    """``shard 1 (on http://b:6335)``: those of which no replica is both active and on a node that answers.

    Empty where none is missing. Raises what the client does, also where the server is no cluster.
    """
    asked = client.http.distributed_api
    cluster = asked.cluster_status().result
    found = asked.collection_cluster_info(collection).result
    if found is None or not isinstance(cluster, models.ClusterStatusOneOf1):
        return ""
    names = {peer: info.uri.rstrip("/") for peer, info in cluster.peers.items()}
    silent = {uri.rstrip("/") for uri in cluster.message_send_failures}
    active = models.ReplicaState.ACTIVE
    homes: dict[int, list[str]] = {}
    there = {one.shard_id for one in found.local_shards if one.state == active}
    for shard in found.remote_shards:
        uri = names.get(str(shard.peer_id), f"node {shard.peer_id}")
        homes.setdefault(shard.shard_id, []).append(uri)
        if shard.state == active and uri not in silent:
            there.add(shard.shard_id)
    return ", ".join(
        f"shard {shard} (on {' and '.join(uris)})"
        for shard, uris in sorted(homes.items())
        if shard not in there
    )

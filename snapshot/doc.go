// Package snapshot is the containerd snapshotter.
//
// A snapshot is one of four kinds. A remote one is a committed snapshot whose
// content is a layer that the layers below this package keep: it has a layer's
// number in a label and no directory of its own. An ordinary one is committed
// too, but was unpacked by containerd into a directory s/<id>/fs. Active
// snapshots and views are what containers and unpackers mount.
//
// # The remote protocol
//
// containerd prepares an image's layers one at a time, lowest first, each with
// the chain ID that it would like to find. Prepare answers that it exists
// already, after it has committed a remote snapshot for it. The first layer
// that is answered with mounts instead makes containerd download it and all
// above it, so this happens only for images that cannot be served here, and
// then the rest of the image is answered the same way.
//
// # State
//
// metadata.db, in the format of containerd's own snapshotters, is the truth.
// What is kept in memory beside it (the catalog of snapshots, the count of
// snapshots that hold a layer) is rebuilt from it at the start. Nothing that a
// snapshot needs is removed unless containerd has removed the snapshot.
//
// # Locks
//
// Snapshotter.placing comes before Snapshotter.write; both come before the
// locks inside catalog, holds and images, which are never held together.
package snapshot

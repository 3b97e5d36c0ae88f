package snapshot

import (
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"google.golang.org/grpc"
)

// Register makes s answer containerd's snapshot API on srv.
func Register(srv grpc.ServiceRegistrar, s *Snapshotter) {
	snapshotsapi.RegisterSnapshotsServer(srv, snapshotservice.FromSnapshotter(s))
}

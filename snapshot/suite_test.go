package snapshot_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"github.com/containerd/containerd/v2/plugins/content/local"
	bolt "go.etcd.io/bbolt"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/dfsnapshotter/dfsnapshotter/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// suiteName tells containerd's suite what to expect: like overlayfs, we do not
// rename a lower layer's folders (redirect_dir).
const suiteName = "overlayfs"

// needRoot skips tests that mount.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to mount overlayfs")
	}
}

func TestSnapshotterSuite(t *testing.T) {
	needRoot(t)
	testsuite.SnapshotterSuite(t, suiteName, func(_ context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		sn, err := snapshot.New(snapshot.Config{Root: root, Layers: newFakeLayers(t), Images: &fakeImages{}})
		if err != nil {
			return nil, nil, err
		}
		return sn, sn.Close, nil
	})
}

func TestSnapshotterSuiteOverGRPC(t *testing.T) {
	needRoot(t)
	testsuite.SnapshotterSuite(t, suiteName, func(_ context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		sn, err := snapshot.New(snapshot.Config{Root: root, Layers: newFakeLayers(t), Images: &fakeImages{}})
		if err != nil {
			return nil, nil, err
		}
		client, stop, err := dial(filepath.Join(root, "sock"), sn)
		if err != nil {
			return nil, nil, errors.Join(err, sn.Close())
		}
		return client, func() error { stop(); return sn.Close() }, nil
	})
}

// dial serves sn on a socket and returns a client of it, as containerd has one.
func dial(socket string, sn *snapshot.Snapshotter) (snapshots.Snapshotter, func(), error) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, nil, err
	}
	srv := grpc.NewServer()
	snapshot.Register(srv, sn)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ends by Stop
	}()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	stop := func() {
		if conn != nil {
			conn.Close()
		}
		srv.Stop()
		<-done
	}
	if err != nil {
		stop()
		return nil, nil, err
	}
	return proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "dfsnapshotter"), stop, nil
}

func TestSnapshotterSuiteBehindMetadata(t *testing.T) {
	needRoot(t)
	testsuite.SnapshotterSuite(t, suiteName, func(_ context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		sn, err := snapshot.New(snapshot.Config{Root: filepath.Join(root, "sn"), Layers: newFakeLayers(t), Images: &fakeImages{}})
		if err != nil {
			return nil, nil, err
		}
		db, bdb, err := openMetadata(root, sn)
		if err != nil {
			return nil, nil, errors.Join(err, sn.Close())
		}
		return db.Snapshotter("dfsnapshotter"), func() error { return errors.Join(sn.Close(), bdb.Close()) }, nil
	})
}

// openMetadata returns containerd's metadata with sn as a snapshotter.
func openMetadata(root string, sn snapshots.Snapshotter) (*metadata.DB, *bolt.DB, error) {
	cs, err := local.NewStore(filepath.Join(root, "content"))
	if err != nil {
		return nil, nil, err
	}
	bdb, err := bolt.Open(filepath.Join(root, "meta.db"), 0o600, nil)
	if err != nil {
		return nil, nil, err
	}
	return metadata.NewDB(bdb, cs, map[string]snapshots.Snapshotter{"dfsnapshotter": sn}), bdb, nil
}

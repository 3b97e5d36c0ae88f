package containerd

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	transferapi "github.com/containerd/containerd/api/services/transfer/v1"
	"github.com/containerd/containerd/api/types"
	transfertypes "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ErrNoService reports that this containerd has no such service.
var ErrNoService = errors.New("containerd has no such service")

// Pull has the transfer service pull an image for a snapshotter, as ctr and nerdctl do.
func (c *Client) Pull(ctx context.Context, name, snapshotter string) error {
	platform := &types.Platform{OS: "linux", Architecture: runtime.GOARCH}
	from, err := typeurl.MarshalAnyToProto(&transfertypes.OCIRegistry{Reference: name, Resolver: &transfertypes.RegistryResolver{}})
	if err != nil {
		return err
	}
	to, err := typeurl.MarshalAnyToProto(&transfertypes.ImageStore{
		Name: name, Platforms: []*types.Platform{platform},
		Unpacks: []*transfertypes.UnpackConfiguration{{Platform: platform, Snapshotter: snapshotter}},
	})
	if err != nil {
		return err
	}
	_, err = transferapi.NewTransferClient(c.conn).Transfer(c.in(ctx), &transferapi.TransferRequest{Source: from, Destination: to, Options: &transferapi.TransferOptions{}})
	return answered(err)
}

// PullCRI has CRI's image service pull an image, as kubelets do.
func (c *Client) PullCRI(ctx context.Context, name string) error {
	_, err := runtimeapi.NewImageServiceClient(c.conn).PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: name}})
	return answered(err)
}

// RemoveCRI removes an image of CRI's.
func (c *Client) RemoveCRI(ctx context.Context, name string) error {
	_, err := runtimeapi.NewImageServiceClient(c.conn).RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: name}})
	return answered(err)
}

// Remove removes an image, and what nobody needs without it. That there is none is as
// good.
func (c *Client) Remove(ctx context.Context, name string) error {
	_, err := imagesapi.NewImagesClient(c.conn).Delete(c.in(ctx), &imagesapi.DeleteImageRequest{Name: name, Sync: true})
	if err = answered(err); errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// answered makes an error of gRPC's one of containerd's.
func answered(err error) error {
	switch {
	case err == nil:
		return nil
	case status.Code(err) == codes.Unimplemented:
		return fmt.Errorf("%w: %w", ErrNoService, err)
	}
	return errgrpc.ToNative(err)
}

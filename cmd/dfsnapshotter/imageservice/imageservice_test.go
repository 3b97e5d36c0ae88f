package imageservice_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfsnapshotter/imageservice"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// containerd answers pulls, and an RPC that nobody knows, both ways at once.
type containerd struct {
	cri.UnimplementedImageServiceServer
}

func (containerd) PullImage(ctx context.Context, r *cri.PullImageRequest) (*cri.PullImageResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if err := grpc.SetTrailer(ctx, metadata.Pairs("trailer", "t")); err != nil {
		return nil, err
	}
	if r.GetAuth().GetPassword() == "wrong" {
		return nil, status.Error(codes.PermissionDenied, "wrong password")
	}
	if r.GetAuth().GetPassword() == "slow" {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &cri.PullImageResponse{ImageRef: fmt.Sprint(r.GetImage().GetImage(), md.Get("header"))}, nil
}

var unknown = grpc.ServiceDesc{
	ServiceName: "runtime.v9.ImageService", HandlerType: (*any)(nil),
	Streams: []grpc.StreamDesc{{StreamName: "Echo", ClientStreams: true, ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
		for {
			var m cri.ImageSpec
			if err := s.RecvMsg(&m); errors.Is(err, io.EOF) {
				return status.Error(codes.DataLoss, "the end")
			} else if err != nil {
				return err
			}
			if err := s.SendMsg(&m); err != nil {
				return err
			}
		}
	}}},
}

func listen(t *testing.T, name string) net.Listener {
	t.Helper()
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), name))
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// heard is what was learned of pulls.
type heard struct {
	mu   sync.Mutex
	list []string
}

func (h *heard) pulls(p imageservice.Pull) func(error) {
	c := p.Credential
	text := fmt.Sprint(p.Repo, " ", c.Username, ":", c.Password, " ", c.IdentityToken, c.RegistryToken)
	return func(err error) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.list = append(h.list, fmt.Sprint(text, " ", status.Code(err)))
	}
}

func open(t *testing.T) (*grpc.ClientConn, *heard) {
	t.Helper()
	h := &heard{}
	conn, s := serve(t, h.pulls)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn, h
}

// serve runs an image service, which is to be closed, and what is below it.
func serve(t *testing.T, pulls func(imageservice.Pull) func(error)) (*grpc.ClientConn, *imageservice.Service) {
	t.Helper()
	below := listen(t, "c")
	server := grpc.NewServer()
	cri.RegisterImageServiceServer(server, containerd{})
	server.RegisterService(&unknown, nil)
	done := make(chan error, 1)
	go func() { done <- server.Serve(below) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	ln := listen(t, "s")
	s, err := imageservice.Serve(ln, imageservice.Config{Endpoint: below.Addr().String(), Pulls: pulls, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("unix://"+ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // the server is going, too
	return conn, s
}

// TestForward holds that calls pass as they are: headers, trailers, errors, deadlines,
// streams, and methods that nobody knows.
func TestForward(t *testing.T) {
	conn, _ := open(t)
	client := cri.NewImageServiceClient(conn)
	var trailer metadata.MD
	ctx := metadata.AppendToOutgoingContext(t.Context(), "header", "h")
	resp, err := client.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: "x"}}, grpc.Trailer(&trailer))
	if err != nil || resp.GetImageRef() != "x[h]" || len(trailer.Get("trailer")) != 1 {
		t.Errorf("%v, %v, %v", resp, trailer, err)
	}
	if _, err := client.ListImages(ctx, &cri.ListImagesRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("what containerd does not know: %v", err)
	}
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := client.PullImage(short, &cri.PullImageRequest{Auth: &cri.AuthConfig{Password: "slow"}}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("after its time: %v", err)
	}
	s, err := conn.NewStream(t.Context(), &unknown.Streams[0], "/runtime.v9.ImageService/Echo")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		m := cri.ImageSpec{Image: fmt.Sprint(i)}
		var back cri.ImageSpec
		if err := errors.Join(s.SendMsg(&m), s.RecvMsg(&back)); err != nil || back.GetImage() != m.GetImage() {
			t.Fatalf("%q came back as %q: %v", m.GetImage(), back.GetImage(), err)
		}
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := s.RecvMsg(&cri.ImageSpec{}); status.Code(err) != codes.DataLoss {
		t.Errorf("a stream ends with %v", err)
	}
}

// TestLearn holds what is learned of pulls.
func TestLearn(t *testing.T) {
	conn, h := open(t)
	client := cri.NewImageServiceClient(conn)
	for _, c := range []struct {
		image string
		auth  *cri.AuthConfig
		want  string // "": nothing
	}{
		{"registry.example/team/app:v1", &cri.AuthConfig{Username: "ada", Password: "right"}, "registry.example/team/app ada:right  OK"},
		{"registry.example/team/app:v1", &cri.AuthConfig{Username: "ada", Password: "wrong"}, "registry.example/team/app ada:wrong  PermissionDenied"},
		{"app@sha256:" + fmt.Sprintf("%064d", 1), &cri.AuthConfig{RegistryToken: "token"}, "docker.io/library/app : token OK"},
		{"host:5000/app", &cri.AuthConfig{Auth: base64.StdEncoding.EncodeToString([]byte("bob:a:b")), ServerAddress: "http://host:5000/v2/"}, "host:5000/app bob:a:b  OK"},
		{"app", &cri.AuthConfig{Username: "x", Password: "y", ServerAddress: "https://index.docker.io/v1/"}, "docker.io/library/app x:y  OK"},
		{"host:5000/app", &cri.AuthConfig{IdentityToken: "i", ServerAddress: "elsewhere"}, ""},
		{"host:5000/app", &cri.AuthConfig{Auth: "%"}, ""},
		{"host:5000/app", &cri.AuthConfig{}, ""},
		{"host:5000/app", nil, ""},
		{"NOT A NAME", &cri.AuthConfig{Username: "x"}, ""},
	} {
		_, err := client.PullImage(t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: c.image}, Auth: c.auth})
		if c.auth.GetPassword() != "wrong" && err != nil {
			t.Error(err)
		}
		var want []string
		if c.want != "" {
			want = []string{c.want}
		}
		h.mu.Lock()
		if diff := cmp.Diff(want, h.list); diff != "" {
			t.Errorf("%s: %s", c.image, diff)
		}
		h.list = nil
		h.mu.Unlock()
	}
	p := imageservice.Pull{Credential: origin.Credential{Password: "secret"}}
	if text := fmt.Sprintf("%v %+v %#v", p, p, p.Credential); text != "pull of / pull of / credential from " {
		t.Errorf("printed it is %s", text)
	}
}

// TestClose closes the service while an image is pulled and a stream waits for its client:
// it hangs at neither, and the pull has ended then.
func TestClose(t *testing.T) {
	began := make(chan struct{})
	ended := make(chan error, 1)
	conn, s := serve(t, func(imageservice.Pull) func(error) {
		close(began)
		return func(err error) {
			time.Sleep(100 * time.Millisecond) // as the keeper takes
			ended <- err
		}
	})
	stream, err := conn.NewStream(t.Context(), &unknown.Streams[0], "/runtime.v9.ImageService/Echo")
	if err == nil {
		err = errors.Join(stream.SendMsg(&cri.ImageSpec{}), stream.RecvMsg(&cri.ImageSpec{}))
	}
	if err != nil {
		t.Fatal(err)
	}
	pulled := make(chan error, 1)
	go func() {
		_, err := cri.NewImageServiceClient(conn).PullImage(t.Context(), &cri.PullImageRequest{
			Image: &cri.ImageSpec{Image: "app"}, Auth: &cri.AuthConfig{Username: "ada", Password: "slow"},
		})
		pulled <- err
	}()
	<-began
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it does not close")
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the pull has succeeded")
		}
	default:
		t.Error("it is closed before the pull has ended")
	}
	if err := <-pulled; err == nil {
		t.Error("the client hears of no error")
	}
}

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CRI drives containerd as a kubelet does.
type CRI struct {
	cri.RuntimeServiceClient
	cri.ImageServiceClient

	at    *Host
	conns []*grpc.ClientConn
}

// CRI connects to containerd's CRI plugin.
func (c *Containerd) CRI() (*CRI, error) { return c.CRIWith(c.Socket) }

// CRIWith connects to containerd's CRI plugin, but for images to another socket.
func (c *Containerd) CRIWith(images string) (*CRI, error) {
	r := &CRI{at: c.at}
	for _, socket := range []string{c.Socket, images} {
		conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, errors.Join(err, r.Close())
		}
		r.conns = append(r.conns, conn)
	}
	r.RuntimeServiceClient, r.ImageServiceClient = cri.NewRuntimeServiceClient(r.conns[0]), cri.NewImageServiceClient(r.conns[1])
	return r, nil
}

// Close ends the connections.
func (c *CRI) Close() (err error) {
	for _, conn := range c.conns {
		err = errors.Join(err, conn.Close())
	}
	return err
}

// Pull pulls an image.
func (c *CRI) Pull(ctx context.Context, ref string) error {
	_, err := c.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref}})
	return err
}

// Pod is a pod sandbox on the machine's network.
type Pod struct {
	ID     string
	config *cri.PodSandboxConfig
	cri    *CRI
}

// Pod starts a pod. With userns its IDs 0 to 65535 are those of the machine
// from there on.
func (c *CRI) Pod(ctx context.Context, name string, userns uint32) (*Pod, error) {
	ns := &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_CONTAINER}
	if userns != 0 {
		ids := []*cri.IDMapping{{HostId: userns, ContainerId: 0, Length: 65536}}
		ns.UsernsOptions = &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: ids, Gids: ids}
	}
	logs := c.at.Path("logs", name)
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return nil, err
	}
	p := &Pod{cri: c, config: &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Namespace: "lab", Uid: name},
		LogDirectory: logs,
		Linux:        &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: ns}},
	}}
	r, err := c.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: p.config})
	if err != nil {
		return nil, fmt.Errorf("run pod %s: %w", name, err)
	}
	p.ID = r.PodSandboxId
	return p, nil
}

// Start starts a container of the pod and returns its ID. No args means the
// image's command.
func (p *Pod) Start(ctx context.Context, name, ref string, args ...string) (string, error) {
	config := &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name},
		Image:    &cri.ImageSpec{Image: ref},
		LogPath:  name + ".log",
		Args:     args,
		Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
			NamespaceOptions: p.config.Linux.SecurityContext.NamespaceOptions,
		}},
	}
	r, err := p.cri.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: p.ID, Config: config, SandboxConfig: p.config})
	if err != nil {
		return "", fmt.Errorf("create container %s: %w", name, err)
	}
	if _, err := p.cri.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: r.ContainerId}); err != nil {
		return "", fmt.Errorf("start container %s: %w", name, err)
	}
	return r.ContainerId, nil
}

// Run starts a container, waits for its end and returns its log. It is an error
// if the container's exit code is not 0.
func (p *Pod) Run(ctx context.Context, name, ref string, args ...string) (string, error) {
	id, err := p.Start(ctx, name, ref, args...)
	if err != nil {
		return "", err
	}
	var code int32
	err = Eventually(ctx, 2*time.Minute, func() error {
		s, err := p.cri.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id})
		if err != nil {
			return err
		}
		code = s.Status.ExitCode
		if s.Status.State != cri.ContainerState_CONTAINER_EXITED {
			return errors.New("container runs")
		}
		return nil
	})
	log, logErr := os.ReadFile(filepath.Join(p.config.LogDirectory, name+".log"))
	if err = errors.Join(err, logErr); err == nil && code != 0 {
		err = fmt.Errorf("container %s ended with %d", name, code)
	}
	return string(log), err
}

// Remove stops and removes the pod with its containers.
func (p *Pod) Remove(ctx context.Context) error {
	if _, err := p.cri.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.ID}); err != nil {
		return err
	}
	_, err := p.cri.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.ID})
	return err
}

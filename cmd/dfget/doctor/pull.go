package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfget/containerd"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/agent"
)

const (
	pullFor   = time.Minute      // how long a test pull may take
	removeFor = 10 * time.Second // and removing its image
)

// checkPulls has containerd pull a small image that nobody has seen, in each way that it
// has, and looks whether its layer is served by the agent, which it is only if
// containerd sends the labels.
func (d *Doctor) checkPulls(ctx context.Context) {
	if !d.Pull {
		d.found("pull", Skipped, "as was asked", "")
		return
	}
	d.checkPull(ctx, "pull", "ctr and nerdctl", func(ctx context.Context, name string) error {
		return d.client.Pull(ctx, name, d.Snapshotter)
	}, d.client.Remove)
	d.checkPull(ctx, "pull by CRI", "Kubernetes", d.client.PullCRI, d.client.RemoveCRI)
}

func (d *Doctor) checkPull(ctx context.Context, check, whose string, pull, remove func(ctx context.Context, name string) error) {
	image, err := serveImage()
	if err != nil {
		d.found(check, Skipped, err.Error(), "")
		return
	}
	defer func() { _ = image.Close() }() // its end
	limited, cancel := context.WithTimeout(ctx, pullFor)
	defer cancel()
	err = pull(limited, image.name)
	if errors.Is(err, containerd.ErrNoService) {
		d.found(check, Skipped, "containerd has no such service", "")
		return
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeFor)
		defer cancel()
		_ = remove(ctx, image.name) // it is small
	}()
	if err != nil {
		d.found(check, Failed, err.Error(), "Do the settings say something? containerd's log and the agent's say more.")
		return
	}
	state, text, fix := d.looked(limited, image, whose)
	if state == Failed && whose == "Kubernetes" && !d.Kubernetes {
		state, text = Warning, text+" (which is as it should be where no kubelet uses this containerd)"
	}
	d.found(check, state, text, fix)
}

// layered is what the agent says of an image.
type layered struct {
	Pulled bool `json:"pulled"`
	Layers []struct {
		ID     uint32 `json:"id"`
		Reason string `json:"reason"`
	} `json:"layers"`
}

// looked says what became of the image's layer.
func (d *Doctor) looked(ctx context.Context, image *testImage, whose string) (State, string, string) {
	const fix = "See what is said of its settings: the labels must be sent, and the snapshotter be the one that is used. The agent's log has a line \"left to containerd\" if it was asked."
	var l layered
	err := agent.Get(ctx, d.Socket, "/v1/image?name="+url.QueryEscape(image.name), &l)
	var no *agent.Refusal
	switch {
	case errors.As(err, &no) && no.Status == http.StatusNotFound:
		return Failed, "the agent was not given the image: images of " + whose + " are downloaded and unpacked by containerd", fix
	case err != nil:
		return Failed, err.Error(), ""
	case !l.Pulled || len(l.Layers) == 0:
		return Failed, "the agent does not serve the image's layer", fix
	}
	if err := within(ctx, 10*time.Second, func() error { return d.read(l.Layers[0].ID, image.content) }); err != nil {
		return Failed, "the layer of a test image cannot be read: " + err.Error(), "Look at the agent's log."
	}
	return OK, "a test image was pulled, with labels, and read", ""
}

// read reads the file of a test image as containerd's containers would.
func (d *Doctor) read(layer uint32, want string) error {
	var failed error
	for _, session := range append(sessions, "l") {
		path := filepath.Join(d.status.Root, session, strconv.Itoa(int(layer)), fileName)
		got, err := os.ReadFile(d.seen(path))
		if err == nil && string(got) != want {
			return fmt.Errorf("%s holds %q, not %q", path, got, want)
		}
		if err == nil {
			return nil
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

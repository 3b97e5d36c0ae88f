package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/terminal"
	"github.com/dfsnapshotter/dfsnapshotter/fs"
)

// timedOut is the exit code of a wait that took too long.
const timedOut = 2

// imageStatus is what there is of an image.
type imageStatus struct {
	Pulled bool        `json:"pulled"` // all layers are among these
	Layers []fs.Status `json:"layers"`
}

func waitCommand(p *program) *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "wait IMAGE", Short: "Wait until all of an image is here, as plain directories",
		Long: `IMAGE is the full name of an image that was pulled, as containerd lists it ("ctr
images ls", "crictl images"), such as docker.io/library/python:3.13-slim.

The exit code is 0 when all its layers are complete, 2 when that took longer than
--timeout, and 1 for any other reason, such as a layer that was refused.`,
		Args: daemon.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.Config()
			if err != nil {
				return err
			}
			w := waiter{socket: c.statusSocket(), image: args[0], line: terminal.NewLine(cmd.ErrOrStderr())}
			ctx := cmd.Context()
			if timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, timeout)
				defer cancel()
			}
			return w.wait(ctx)
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "give up after so long, such as 5m (default: never)")
	return cmd
}

// waiter waits for an image.
type waiter struct {
	socket, image string
	line          *terminal.Line // shows how far it is
}

// lookAgain is how long it takes until a wait notices a change.
const lookAgain = 250 * time.Millisecond

func (w *waiter) wait(ctx context.Context) error {
	far := "the daemon has not said how far it is"
	defer w.line.Show("")
	for {
		s, err := askImage(ctx, w.socket, w.image)
		if err == nil {
			var done bool
			if done, far, err = s.progress(); done {
				return nil
			}
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
		w.line.Show(w.image + ": " + far)
		select {
		case <-time.After(lookAgain):
		case <-ctx.Done():
			err := fmt.Errorf("%s is not all here: %s", w.image, far)
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return daemon.ExitError{Code: timedOut, Err: err}
			}
			return err
		}
	}
}

// progress reports whether all of an image is here, or how far it is.
func (s imageStatus) progress() (done bool, far string, err error) {
	var blobs, here int64
	complete, note := 0, ""
	for _, l := range s.Layers {
		part := l.Size
		switch l.State {
		case fs.Refused:
			return false, "", fmt.Errorf("layer %s is refused: %s", l.Blob, l.Reason)
		case fs.Complete:
			complete++
		default:
			if l.Chunks > 0 {
				part = int64(float64(l.Size) * float64(l.Filled) / float64(l.Chunks))
			}
			if l.Reason != "" {
				note = "; filling has stopped: " + l.Reason
			}
		}
		blobs, here = blobs+l.Size, here+part
	}
	if !s.Pulled {
		return false, "its pull is under way, or was given up", nil
	}
	far = fmt.Sprintf("%s of %s, %d of %d layers are complete%s", terminal.Size(here), terminal.Size(blobs), complete, len(s.Layers), note)
	return complete == len(s.Layers), far, nil
}

// image serves what wait asks for.
func (n *node) image(w http.ResponseWriter, r *http.Request) {
	if n.sn == nil {
		http.Error(w, "this is a seed, which mounts nothing", http.StatusNotFound)
		return
	}
	p, err := n.sn.Pulled(r.Context(), r.FormValue("name"))
	if err != nil {
		code := http.StatusInternalServerError
		if errdefs.IsNotFound(err) {
			code = http.StatusNotFound
		}
		http.Error(w, err.Error(), code)
		return
	}
	s := imageStatus{Pulled: p.Whole, Layers: []fs.Status{}}
	of := map[uint32]bool{}
	for _, id := range p.Layers {
		of[id] = true
	}
	for _, l := range n.fs.Status() {
		if of[l.ID] {
			s.Layers = append(s.Layers, l)
		}
	}
	n.answer(w, s)
}

func askImage(ctx context.Context, socket, name string) (s imageStatus, err error) {
	err = ask(ctx, socket, "/v1/image?name="+url.QueryEscape(name), &s)
	return s, err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/agent"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
)

// agentFlag names the agent's socket.
type agentFlag struct{ socket string }

func (f *agentFlag) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.socket, "agent", agent.Socket, "socket of the agent")
}

// get reads what the agent has at a path.
func (f *agentFlag) get(ctx context.Context, path string, answer any) error {
	return agentExit(agent.Get(ctx, f.socket, path, answer))
}

// do asks the agent for something, and returns its answer.
func (f *agentFlag) do(ctx context.Context, method, path string, content io.Reader, n int64) (io.ReadCloser, error) {
	body, err := agent.Do(ctx, f.socket, method, path, content, n)
	return body, agentExit(err)
}

// tell asks the agent for something that has no answer.
func (f *agentFlag) tell(ctx context.Context, method, path string) error {
	body, err := f.do(ctx, method, path, nil, 0)
	if err != nil {
		return err
	}
	return body.Close()
}

// agentExit gives an error of the agent the exit code that it has.
func agentExit(err error) error {
	var r *agent.Refusal
	code := 1
	switch {
	case err == nil:
		return nil
	case errors.Is(err, agent.ErrAgent):
		return daemon.ExitError{Code: exitUnavailable, Err: fmt.Errorf(
			"%w\nDoes dfsnapshotter run (systemctl status dfsnapshotter)? Is this its socket (--agent), and are you root?", err)}
	case errors.As(err, &r):
		switch r.Status {
		case http.StatusNotFound:
			code = exitNotFound
		case http.StatusUnprocessableEntity:
			code = exitDigest
		case http.StatusInsufficientStorage:
			code = exitOutput
		}
	}
	return daemon.ExitError{Code: code, Err: err}
}

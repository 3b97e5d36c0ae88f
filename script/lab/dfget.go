package lab

import "context"

// StatusSocket is where dfget finds this machine's dfsnapshotter.
func (l *Lab) StatusSocket() string { return l.machine().StatusSocket() }

// StatusSocket is where dfget finds the host's dfsnapshotter, if that mounts.
func (h *Host) StatusSocket() string { return h.Path("status.sock") }

// Dfget runs dfget on this machine and returns what it prints.
func (l *Lab) Dfget(ctx context.Context, args ...string) (string, error) {
	return l.machine().Dfget(ctx, args...)
}

// Dfget runs dfget on the host and returns what it prints.
func (h *Host) Dfget(ctx context.Context, args ...string) (string, error) {
	bin, err := h.lab.binary(ctx, "dfget")
	if err != nil {
		return "", err
	}
	return h.Run(ctx, nil, append([]string{bin}, args...)...)
}

package daemon

import (
	"log/slog"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Ready tells systemd, if that started this process, that it is ready.
func Ready(log *slog.Logger) {
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		log.Warn("tell systemd", "err", err)
	}
}

// Stopping tells systemd that the process is about to end.
func Stopping() { _, _ = daemon.SdNotify(false, daemon.SdNotifyStopping) }

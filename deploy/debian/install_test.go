package debian

import (
	"strings"
	"testing"
)

// install installs, upgrades and removes the packages by dpkg.
func install(t *testing.T, debs string) {
	m := boot(t, debs)
	m.run("dpkg -i /debs/*.deb")
	m.installed()
	if told := m.told(); told != strings.TrimSpace(strings.Repeat("daemon-reload\n", 3)) {
		t.Errorf("installing told systemctl: %s", told)
	}

	m.run("dpkg -i /debs/*.deb")
	told := m.told()
	for _, s := range []string{"dfmanager", "dfscheduler", "dfsnapshotter", "dfsnapshotter-seed"} {
		if !strings.Contains(told+"\n", "try-restart "+s+".service\n") {
			t.Errorf("an upgrade does not restart %s: %s", s, told)
		}
	}
	if strings.Contains(told, "keeper") {
		t.Errorf("an upgrade touches the keeper: %s", told)
	}

	m.refusals()
	m.run("dpkg -r dfmanager dfscheduler")
	if told := m.told(); !strings.Contains(told, "disable --now --quiet dfmanager.service") || !strings.Contains(told, "disable --now --quiet dfscheduler.service") {
		t.Errorf("removing told systemctl: %s", told)
	}
	m.run("mkdir -p /var/lib/dfmanager /var/lib/dfscheduler; dpkg -P dfmanager dfscheduler dfsnapshotter")
	if left := m.run("ls -d /var/lib/df* /etc/dfsnapshotter /usr/share/doc/df* /usr/bin/dfsnapshotter /usr/bin/dfmanager 2>&1 | grep -v 'No such'"); left != "/var/lib/dfmanager\n/var/lib/dfsnapshotter" {
		t.Errorf("purging left %s", left)
	}
}

// installed looks at what dpkg has installed.
func (m *machine) installed() {
	m.Helper()
	if out := m.run("dpkg -V dfmanager dfscheduler dfsnapshotter"); out != "" {
		m.Errorf("dpkg finds files wrong: %s", out)
	}
	for _, p := range []string{"dfmanager", "dfscheduler", "dfsnapshotter", "dfget"} {
		if out := m.run("/usr/bin/" + p + " --version"); !strings.HasSuffix(out, version) {
			m.Errorf("%s says that it is %s", p, out)
		}
	}
	m.run("dpkg --compare-versions $(dpkg-query -W -f '${Version}' dfmanager) lt 1.2.3")
	m.run("dpkg --compare-versions $(dpkg-query -W -f '${Version}' dfmanager) gt 1.2.3~rc.1")
	m.run("getent passwd dfmanager dfscheduler dfseed")
	for _, p := range []string{"dfmanager", "dfscheduler", "dfsnapshotter"} {
		m.run(p + " config check /usr/share/doc/" + p + "/examples/" + p + ".toml")
	}
	units := m.run("cat /usr/lib/systemd/system/df*.service")
	if strings.Contains(units, "/usr/local") || strings.Count(units, " /usr/bin/df") != 1 || strings.Count(units, "=/usr/bin/df") != 4 {
		m.Errorf("the units run other programs:\n%s", units)
	}
}

// refusals sees that dfsnapshotter stays while something needs it.
func (m *machine) refusals() {
	m.Helper()
	refused := func(want string) {
		m.Helper()
		if out, err := m.try("dpkg -r dfsnapshotter"); err == nil || !strings.Contains(out, "dfsnapshotter is in use") || !strings.Contains(out, want) {
			m.Errorf("removing did not say %q: %v: %s", want, err, out)
		}
		m.run("test -x /usr/bin/dfsnapshotter")
		if told := m.told(); strings.Contains(told, "disable") {
			m.Errorf("it was stopped: %s", told)
		}
	}
	m.run("mkdir -p /etc/dfsnapshotter/install")
	refused("install --undo")
	m.run("rmdir /etc/dfsnapshotter/install")

	for _, dir := range []string{"/var/lib/dfsnapshotter/s/12", "/var/lib/dfsnapshotter/layers/3"} {
		m.run("mkdir -p " + dir)
		refused("ctr snapshots")
		m.run("rmdir " + dir)
	}
	m.run("mkdir -p /var/lib/dfsnapshotter/s/gone-4; echo 65 >/var/lib/dfsnapshotter/layers/next") // not in use

	m.run(`printf '#!/bin/sh\necho LAYER\necho 1\n' >/usr/local/bin/dfsnapshotter; chmod 755 /usr/local/bin/dfsnapshotter`)
	refused("its layers are in containerd (dfsnapshotter status)")
	m.run("rm /usr/local/bin/dfsnapshotter")

	if _, err := m.try("test -c /dev/fuse"); err != nil {
		m.Log("missing: /dev/fuse")
		m.run("dpkg -r dfsnapshotter")
		return
	}
	m.run(`printf "mirror.listen = ''\ndebug.listen = ''\n" >/etc/dfsnapshotter/dfsnapshotter.toml; mkdir -p /run/dfsnapshotter`)
	m.start("dfsnapshotter", "keeper")
	m.eventually("test -S /run/dfsnapshotter/keeper.sock")
	daemon := m.start("dfsnapshotter")
	m.eventually("dfsnapshotter status")
	if err := daemon.Process.Kill(); err != nil {
		m.Fatal(err)
	}
	_ = daemon.Wait() // it was killed
	refused("the daemon does not run")

	m.start("dfsnapshotter")
	m.eventually("dfsnapshotter status")
	m.run("dpkg -r dfsnapshotter")
	if told := m.told(); !strings.Contains(told, "disable --now --quiet dfsnapshotter-seed.service dfsnapshotter.service dfsnapshotter-keeper.service") {
		m.Errorf("removing told systemctl: %s", told)
	}
	if out, err := m.try("grep fuse.dfsnapshotter /proc/self/mountinfo"); err == nil {
		m.Errorf("mounts are left: %s", out)
	}
	m.run("test -e /etc/dfsnapshotter/dfsnapshotter.toml")
}

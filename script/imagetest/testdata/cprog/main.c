/*
 * Reads the files named on the command line, first starting itself anew N times
 * (-n N), under an interval timer of 1 ms whose handler does not ask the kernel
 * to restart system calls. A file system that lets a signal interrupt open,
 * stat, exec or a read of a file, as no disk does, makes it fail.
 *
 * The signal is one that is ignored by default, because exec takes the handler
 * away while signals may be pending.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t ticks;

static void tick(int sig) { (void)sig; ticks++; }

static void fail(const char *what, const char *name)
{
	fprintf(stderr, "%s %s: %s\n", what, name, strerror(errno));
	exit(1);
}

static unsigned long checksum(const char *name)
{
	struct stat st;
	if (stat(name, &st) < 0)
		fail("stat", name);
	int fd = open(name, O_RDONLY);
	if (fd < 0)
		fail("open", name);
	unsigned long sum = 0;
	long long left = st.st_size / 2; /* the first half by read, the rest by mapping */
	static unsigned char buf[65536];
	while (left > 0) {
		ssize_t n = read(fd, buf, left < (long long)sizeof buf ? left : (long long)sizeof buf);
		if (n <= 0)
			fail("read", name);
		for (ssize_t i = 0; i < n; i++)
			sum = sum * 31 + buf[i];
		left -= n;
	}
	if (st.st_size > 0) {
		unsigned char *p = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (p == MAP_FAILED)
			fail("mmap", name);
		for (long long i = st.st_size / 2; i < st.st_size; i++)
			sum = sum * 31 + p[i];
		munmap(p, st.st_size);
	}
	close(fd);
	return sum;
}

int main(int argc, char **argv)
{
	struct sigaction sa = {.sa_handler = tick};
	struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGWINCH};
	struct itimerspec ms = {{0, 1000000}, {0, 1000000}};
	timer_t timer;
	sigaction(SIGWINCH, &sa, NULL);
	if (timer_create(CLOCK_MONOTONIC, &ev, &timer) < 0 || timer_settime(timer, 0, &ms, NULL) < 0)
		fail("timer", "");

	int first = 1;
	if (argc > 2 && strcmp(argv[1], "-n") == 0) {
		int n = atoi(argv[2]);
		if (n > 0) {
			char next[16];
			snprintf(next, sizeof next, "%d", n - 1);
			argv[2] = next;
			execv("/proc/self/exe", argv);
			fail("exec", argv[0]);
		}
		first = 3;
	}
	unsigned long sum = 0;
	for (int i = first; i < argc; i++)
		sum = sum * 31 + checksum(argv[i]);
	while (!ticks) /* the timer must have been there */
		;
	printf("%lx\n", sum);
	return 0;
}

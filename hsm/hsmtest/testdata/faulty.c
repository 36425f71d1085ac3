/* A PKCS#11 library that is another one and fails on command.
 *
 * cc -shared -fPIC -DREAL='"/usr/lib/softhsm/libsofthsm2.so"' -DCOMMAND='"/tmp/cmd"' -DLOGINS='"/tmp/logins"' -o faulty.so faulty.c -ldl
 *
 * COMMAND is a file with one word: the name of what happens at the next
 * signature, or with "login-" before it at the next login. Who reads it takes it
 * away. LOGINS gets an octet for each login.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long CK_ULONG;

/* CK_FUNCTION_LIST of PKCS #11 v2.40: a version, then 68 functions in the order
 * of the standard. */
enum { LOGIN = 18, SIGN = 43, FUNCTIONS = 68 };
typedef struct {
	unsigned char version[2];
	void *function[FUNCTIONS];
} list;

static list ours, *real;

/* fail does what the command file says, if it is for this place. */
static void fail(const char *place)
{
	char word[64] = "", taken[512];
	int fd = open(COMMAND, O_RDONLY);
	if (fd < 0)
		return;
	ssize_t n = read(fd, word, sizeof word - 1);
	close(fd);
	if (n <= 0 || strncmp(word, place, strlen(place)))
		return;
	/* Of many threads that read it, one takes it. */
	snprintf(taken, sizeof taken, "%s.%d.%p", COMMAND, getpid(), (void *)&taken);
	if (rename(COMMAND, taken))
		return;
	unlink(taken);
	const char *what = word + strlen(place);
	if (!strcmp(what, "crash"))
		*(volatile int *)0 = 1;
	else if (!strcmp(what, "abort"))
		abort();
	else if (!strcmp(what, "exit"))
		_exit(0);
	else if (!strcmp(what, "hang"))
		for (;;)
			pause();
	else if (!strcmp(what, "stop"))
		raise(SIGSTOP);
	else if (!strcmp(what, "minute"))
		sleep(60);
}

static CK_ULONG login(CK_ULONG session, CK_ULONG user, unsigned char *pin, CK_ULONG n)
{
	int fd = open(LOGINS, O_WRONLY | O_CREAT | O_APPEND, 0600);
	if (fd >= 0) {
		if (write(fd, ".", 1) < 0)
			perror("logins");
		close(fd);
	}
	fail("login-");
	return ((CK_ULONG(*)(CK_ULONG, CK_ULONG, unsigned char *, CK_ULONG))real->function[LOGIN])(session, user, pin, n);
}

static CK_ULONG sign(CK_ULONG session, unsigned char *data, CK_ULONG n, unsigned char *sig, CK_ULONG *size)
{
	fail("sign-");
	return ((CK_ULONG(*)(CK_ULONG, unsigned char *, CK_ULONG, unsigned char *, CK_ULONG *))real->function[SIGN])(session, data, n, sig, size);
}

CK_ULONG C_GetFunctionList(list **out)
{
	if (!real) {
		void *lib = dlopen(REAL, RTLD_NOW | RTLD_LOCAL);
		CK_ULONG (*get)(list **) = lib ? (CK_ULONG(*)(list **))dlsym(lib, "C_GetFunctionList") : 0;
		if (!get || get(&real))
			return 5; /* CKR_GENERAL_ERROR */
		memcpy(&ours, real, sizeof ours);
		ours.function[3] = (void *)C_GetFunctionList;
		ours.function[LOGIN] = (void *)login;
		ours.function[SIGN] = (void *)sign;
	}
	*out = &ours;
	return 0;
}

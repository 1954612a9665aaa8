//! System calls: epoll, sockets, clocks. All `unsafe` code of the package is here.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Epoll interest and readiness flags.
pub const READABLE: u32 = libc::EPOLLIN as u32;
pub const WRITABLE: u32 = libc::EPOLLOUT as u32;

pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    pub fn new() -> io::Result<Epoll> {
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        let events = vec![libc::epoll_event { events: 0, u64: 0 }; 1024];
        Ok(Epoll { fd: unsafe { OwnedFd::from_raw_fd(fd) }, events })
    }

    pub fn add(&self, fd: RawFd, interest: u32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, interest, token)
    }

    pub fn change(&self, fd: RawFd, interest: u32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, interest, token)
    }

    pub fn remove(&self, fd: RawFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, 0)
    }

    fn control(&self, op: i32, fd: RawFd, interest: u32, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest, u64: token };
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), op, fd, &mut event) }).map(drop)
    }

    /// Waits at most `timeout_ns` (negative: forever); returns the number of events for [`Epoll::event`].
    pub fn wait(&mut self, timeout_ns: i64) -> io::Result<usize> {
        let limit = libc::timespec { tv_sec: timeout_ns / 1_000_000_000, tv_nsec: timeout_ns % 1_000_000_000 };
        let limit = if timeout_ns < 0 { std::ptr::null() } else { &raw const limit };
        let n = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.fd.as_raw_fd(),
                self.events.as_mut_ptr(),
                self.events.len() as libc::c_int,
                limit,
                std::ptr::null::<libc::sigset_t>(),
                8usize,
            )
        };
        match check(n as i32) {
            Ok(n) => Ok(n as usize),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(e) => Err(e),
        }
    }

    /// Token and readiness of event `i` of the last wait.
    pub fn event(&self, i: usize) -> (u64, u32) {
        let event = self.events[i];
        (event.u64, event.events)
    }
}

/// Listens on loopback, non-blocking, with a backlog large enough for a burst of connections.
pub fn listen(port: u16) -> io::Result<OwnedFd> {
    let fd = stream_socket()?;
    set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    let address = sockaddr(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as u32) })?;
    check(unsafe { libc::listen(fd.as_raw_fd(), 4096) })?;
    Ok(fd)
}

/// Accepts the next pending connection, if any.
pub fn accept(listener: RawFd) -> io::Result<Option<OwnedFd>> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let fd = unsafe { libc::accept4(listener, std::ptr::null_mut(), std::ptr::null_mut(), flags) };
    match check(fd) {
        Ok(fd) => {
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            set_option(&fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
            Ok(Some(fd))
        }
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(e) => Err(e),
    }
}

/// Connects from loopback address `source`, so that many connections do not run out of ports. `receive_buffer`
/// limits the kernel's buffer for a client that never reads. The returned socket may still be connecting.
pub fn connect(to: SocketAddrV4, source: Ipv4Addr, receive_buffer: Option<i32>) -> io::Result<OwnedFd> {
    let fd = stream_socket()?;
    set_option(&fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    set_option(&fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    if let Some(bytes) = receive_buffer {
        set_option(&fd, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes)?;
    }
    let from = sockaddr(SocketAddrV4::new(source, 0));
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const from).cast(), size_of_val(&from) as u32) })?;
    let to = sockaddr(to);
    match check(unsafe { libc::connect(fd.as_raw_fd(), (&raw const to).cast(), size_of_val(&to) as u32) }) {
        Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => Err(e),
        _ => Ok(fd),
    }
}

/// Returns the number of bytes read; `None` if the call would block, 0 at the end of the stream.
pub fn read(fd: RawFd, into: &mut [u8]) -> io::Result<Option<usize>> {
    none_if_would_block(unsafe { libc::read(fd, into.as_mut_ptr().cast(), into.len()) })
}

/// Returns the number of bytes written; `None` if the call would block.
pub fn write(fd: RawFd, bytes: &[u8]) -> io::Result<Option<usize>> {
    none_if_would_block(unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) })
}

/// Closes a raw file descriptor.
pub fn close(fd: RawFd) {
    unsafe { libc::close(fd) };
}

/// Whether standard input has a line: `None` if there is nothing to read, false at its end.
pub fn stdin_line() -> io::Result<Option<bool>> {
    let mut wanted = libc::pollfd { fd: libc::STDIN_FILENO, events: libc::POLLIN, revents: 0 };
    if check(unsafe { libc::poll(&mut wanted, 1, 0) })? == 0 {
        return Ok(None);
    }
    let mut line = [0; 64];
    Ok(read(libc::STDIN_FILENO, &mut line)?.map(|n| n > 0))
}

/// Nanoseconds of the monotonic clock.
pub fn now() -> u64 {
    clock(libc::CLOCK_MONOTONIC).unwrap_or(0)
}

/// User and system time of a process in nanoseconds, including threads that have ended. Equals `utime + stime` of
/// `/proc/PID/stat` without its 10 ms resolution.
pub fn process_cpu(pid: i32) -> io::Result<u64> {
    const SCHEDULER_CLOCK: i32 = 2;
    clock((!pid << 3) | SCHEDULER_CLOCK)
}

/// Raises the limit of open files to its hard limit.
pub fn raise_file_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
    }
}

fn clock(id: libc::clockid_t) -> io::Result<u64> {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    check(unsafe { libc::clock_gettime(id, &mut t) })?;
    Ok(t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64)
}

fn stream_socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    Ok(unsafe { OwnedFd::from_raw_fd(check(libc::socket(libc::AF_INET, kind, 0))?) })
}

fn set_option(fd: &OwnedFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let size = size_of_val(&value) as u32;
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), size) }).map(drop)
}

fn sockaddr(a: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: a.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*a.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn none_if_would_block(result: isize) -> io::Result<Option<usize>> {
    if result >= 0 {
        return Ok(Some(result as usize));
    }
    match io::Error::last_os_error() {
        e if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
        e => Err(e),
    }
}

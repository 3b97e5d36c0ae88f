// Hello is what the image openjdk runs: javac --release 17 Hello.java
public class Hello {
	public static void main(String[] args) {
		System.out.println("ready");
	}
}

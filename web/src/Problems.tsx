import { useEffect, useLayoutEffect, useRef, useState } from "react";
import "./problems.css";

interface Problem {
  message: string;
  file: string;
  line: number;
  is_warning: boolean;
}

const SHOWN = 5;

/** What is wrong in the functions that somebody edits under `make dev`. Not part of the built page. */
export default function Problems() {
  const [problems, setProblems] = useState<Problem[]>([]);
  const box = useRef<HTMLDivElement>(null);

  useEffect(() => {
    const { hot } = import.meta;
    hot?.on("problems", setProblems);
    hot?.send("problems:now");
    return () => hot?.off("problems", setProblems);
  }, []);

  // the page below becomes as much shorter
  useLayoutEffect(() => {
    const { style } = document.documentElement;
    const measure = () => style.setProperty("--problems", `${box.current?.offsetHeight ?? 0}px`);
    measure();
    window.addEventListener("resize", measure);
    return () => window.removeEventListener("resize", measure);
  }, [problems]);

  if (problems.length === 0) return null;
  const more = problems.length - SHOWN;
  return (
    <div ref={box} className="problems" role="alert">
      <ul>
        {problems.slice(0, SHOWN).map(({ message, file, line }) => (
          <li key={`${file}:${line} ${message}`}>
            {file && <code>{line ? `${file}:${line}` : file}</code>} {message}
          </li>
        ))}
        {more > 0 && <li>and {more} more, in the terminal</li>}
      </ul>
    </div>
  );
}
